"""``nox`` runs every session, ``nox -s "tests(jax)" -- tests/test_freezing.py`` a part of one."""

import os
import re
from pathlib import Path

import nox

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "uv|venv"  # uv, where it is installed, is quicker
nox.options.reuse_venv = "yes"
# A Python that is not installed is skipped by name, as CI may have one only.
nox.options.error_on_missing_interpreters = False

BACKENDS = ["tensorflow", "torch", "jax"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
# The extras of an environment with one backend; the others' tests skip there, by the backend's name.
# KerasHub requires TensorFlow on Linux.
ALONE = {"tensorflow": "cli,export,hub", "torch": "cli,export", "jax": "cli,export"}
# What installs a build for NVIDIA's GPUs: CUDA 12 with TensorFlow, 13 with torch and JAX.
CUDA = {"tensorflow": "tensorflow[and-cuda]", "torch": "torch", "jax": "jax[cuda13]"}
# Small enough for some minutes on a GPU; input_pipeline.py has nothing to do with one.
BENCHMARKS = {
    "feature_cache.py": ("--images", "256", "--pairs", "2"),
    "layerwise_overhead.py": ("--pairs", "5"),
    "lr_finder_overhead.py": ("--pairs", "2"),
    "lr_overhead.py": ("--networks", "2", "--epochs", "2"),
    "recipe.py": ("--epochs", "2", "2", "--sides", "keras_transfer", "plain Keras", "the bound"),
}
# With the real images, where the variables of "Real images and weights" in CONTRIBUTING.md are set.
REAL_BENCHMARKS = {
    "ants_and_bees.py": ("--seeds", "1"),
    "automatic.py": ("--sets", "hymenoptera", "--seeds", "1"),
    "cache_precision.py": ("--seeds", "1", "--epochs", "2"),
    "linear_head.py": ("--splits", "1", "--only", "hymenoptera"),
    "lr_finder_flowers.py": ("--seeds", "1", "--epochs", "2"),
    "lr_recipes.py": ("--seeds", "1"),
    "ranking.py": ("--seeds", "1", "--epochs", "2"),
}
# Each process runs one half of the files in their order, so that what a file prepares is made once; the
# one that is done first takes over from the other.
IN_TWO = ("-m", "pytest", "-n", "2", "--dist", "worksteal")
PYTEST = (*IN_TWO, "-p", "no:randomly")
# Exact versions for every environment. uv doesn't read pip's variables, which may name PyTorch's CPU
# builds.
PINNED = ("-c", "constraints.txt")
UV = {
    "SSL_CERT_FILE": os.environ.get("PIP_CERT"),
    "UV_DEFAULT_INDEX": os.environ.get("PIP_INDEX_URL"),
    "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS"),
    "UV_EXTRA_INDEX_URL": os.environ.get("PIP_EXTRA_INDEX_URL"),
    "UV_INDEX_STRATEGY": "unsafe-best-match",  # as pip: the best version of all indexes
}
os.environ.update({name: value for name, value in UV.items() if value and name not in os.environ})
# For what is measured, or is to be as a user has it: XLA as the environment says.
OPTIMISED = {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
# Keras 3.15 itself meets this one under NumPy 2; the same ignore is in pyproject.toml for pytest.
WARNINGS = (
    "-Werror",
    "-Wignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)


def backend_environment(backend: str) -> dict[str, str]:
    """The variables that select a Keras backend and quiet TensorFlow's and XLA's C++ logs."""
    return {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}


def test_environment(session: nox.Session, backend: str) -> dict[str, str]:
    """The variables of a test run: one thread for each of two processes, and what JAX compiled kept."""
    own_cache = str(session.cache_dir.resolve() / "jax")
    return backend_environment(backend) | {
        "OMP_NUM_THREADS": "1",  # more would wait for each other on a small machine
        # Some images for containers set it, so that each process would compile what it imports anew.
        "PYTHONDONTWRITEBYTECODE": "",
        # Most programs of the tests run once: LLVM's optimisation takes longer than it saves.
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0"),
        # Tests compile the same small programs again and again, in all processes of a run. Where the
        # environment names a cache, the next run finds them, too.
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", own_cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def run_pip(session: nox.Session, *arguments: str) -> None:
    """Run a command of pip, or of uv, which makes environments without pip, in the session's one."""
    pip = ("uv", "pip") if session.venv_backend == "uv" else ("python", "-m", "pip")
    session.run(*pip, *arguments, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff, and that no imports go in a circle."""
    session.install(*PINNED, "import-linter", "ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", env={"PYTHONPATH": "."})  # it reads the package without importing it


@nox.session
def types(session: nox.Session) -> None:
    """Check the package's types; everything but NumPy and rich is Any (see pyproject.toml)."""
    session.install(*PINNED, "mypy", "numpy", "rich")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/; a warning is an error."""
    extras = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
    session.install(*PINNED, *extras["docs"])  # without the package, whose source is read, not run
    # Material for MkDocs tells at each start until when it is maintained.
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def develop(session: nox.Session) -> None:
    """Make the environment with all backends that the test sessions share."""
    session.install(*PINNED, "-e", ".[all,dev]")
    run_pip(session, "check")


@nox.session(venv_backend="none", requires=["develop"])
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Run the suite on one backend, in the environment of `develop`."""
    python = session.cache_dir.parent.resolve() / "develop" / "bin" / "python"
    environment = test_environment(session, backend)
    times = session.cache_dir.resolve() / "times" / f"{backend}.xml"  # for tools/test_times.py
    session.run(python, *PYTEST, f"--junitxml={times}", *session.posargs, env=environment, external=True)


@nox.session(venv_backend="none", requires=["develop"], default=False)
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def nightly(session: nox.Session, backend: str) -> None:
    """Run all tests on each backend, with all applications and processes, 50 kills of each kind."""
    python = session.cache_dir.parent.resolve() / "develop" / "bin" / "python"
    environment = test_environment(session, backend) | OPTIMISED | {"KERAS_TRANSFER_KILLS": "50"}
    options = ["--nightly", "--everywhere", "--hypothesis-profile", "thorough"]
    session.run(python, *PYTEST, *options, *session.posargs, env=environment, external=True)


@nox.session(venv_backend="none", requires=["develop"], default=False)
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def shuffled(session: nox.Session, backend: str) -> None:
    """Run the suite in random order; `-- --randomly-seed=N` takes the seed that it prints."""
    python = session.cache_dir.parent.resolve() / "develop" / "bin" / "python"
    session.run(python, *IN_TWO, *session.posargs, env=test_environment(session, backend), external=True)


@nox.session(venv_backend="none", requires=["develop"], default=False)
def breaks(session: nox.Session) -> None:
    """Try which deliberate breaks of the package the suite notices: tests/breaks. It takes hours.

    What is done already is not done again. Remove .nox/.cache/breaks after a change of the suite, and
    tests/breaks/results.json to try all breaks anew.
    """
    python = session.cache_dir.parent.resolve() / "develop" / "bin" / "python"
    folder = session.cache_dir.resolve() / "breaks"
    for backend in BACKENDS:
        here = folder / backend
        here.mkdir(parents=True, exist_ok=True)  # coverage doesn't
        if not (here / "times.xml").exists():
            environment = test_environment(session, backend) | {"COVERAGE_FILE": str(here / "coverage")}
            measured = ("--cov=keras_transfer", "--cov-context=test", "--cov-report=")
            measured += ("--cov-config=tests/breaks/coverage.toml", f"--junitxml={here / 'times.xml'}")
            session.run(python, *PYTEST, *measured, env=environment, external=True)
    found = [f"{backend}={folder / backend}" for backend in BACKENDS]
    session.run(python, "tests/breaks/cover.py", ".", "tests/breaks/map.json", *found, external=True)
    options = [".", "tests/breaks/map.json", "tests/breaks/results.json", *session.posargs]
    environment = test_environment(session, "torch")
    session.run(python, "tests/breaks/run.py", *options, env=environment, external=True)


@nox.session(default=False)
@nox.parametrize("version", ["oldest", "nightly"], ids=["oldest", "nightly"])
def keras(session: nox.Session, version: str) -> None:
    """Run the suite on each backend with the oldest Keras that is supported, or the newest there is."""
    session.install(*PINNED, "-e", ".[all,dev]")
    if version == "oldest":
        floor = re.search(r'"keras>=([\d.]+)', Path("pyproject.toml").read_text(encoding="utf-8"))[1]
        session.install(f"keras=={floor}")
    else:
        # The same package under another name: pip would leave both, one upon the other.
        run_pip(session, "uninstall", *["-y"] * (session.venv_backend == "venv"), "keras")
        session.install("--pre", "--upgrade", "keras-nightly")
    for backend in BACKENDS:
        environment = test_environment(session, backend)
        session.run("python", *PYTEST, *session.posargs, env=environment)


@nox.session(python=PYTHONS, default=False)
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def python(session: nox.Session, backend: str) -> None:
    """Run the suite with another Python, on one backend that is installed alone."""
    if (session.python, backend) == ("3.14", "tensorflow"):
        session.skip("TensorFlow 2.21 has no build for Python 3.14")
    session.install(*PINNED, "-e", f".[{ALONE[backend]},{backend},dev]")
    environment = test_environment(session, backend)
    session.run("python", *PYTEST, *session.posargs, env=environment)


@nox.session(venv_backend="uv", default=False)
def lowest(session: nox.Session) -> None:
    """Run the suite on JAX alone with the lowest release of each direct dependency."""
    # Without constraints.txt, which has the newest. What these require themselves is the newest, too.
    extras = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
    tools = [each for each in extras["dev"] if re.match(r"pytest|hypothesis", each)]
    session.install("--resolution", "lowest-direct", "-e", ".[cli,jax]", *tools)
    environment = test_environment(session, "jax")
    session.run("python", *PYTEST, "-m", "not slow", *session.posargs, env=environment)


@nox.session(default=False)
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def smoke(session: nox.Session, backend: str) -> None:
    """Run the heart of the suite with the newest releases, as a user of another system gets them."""
    tools = ("hypothesis", "pytest", "pytest-randomly", "pytest-timeout", "pytest-xdist")
    session.install("-e", f".[cli,{backend}]", *tools)
    heart = ("cli", "data", "training/test_fine_tune.py", "test_freezing.py", "test_recompiling.py")
    files = [str(Path("tests", name)) for name in heart]
    environment = test_environment(session, backend)
    session.run("python", *PYTEST, "-m", "not slow", *files, *session.posargs, env=environment)


@nox.session(default=False)
def gpu_tensorflow(session: nox.Session) -> None:
    """Run the suite and the benchmarks with TensorFlow on one GPU; without a GPU it fails."""
    run_on_gpu(session, "tensorflow")


@nox.session(default=False)
def gpu_torch(session: nox.Session) -> None:
    """Run the suite and the benchmarks with PyTorch on one GPU; without a GPU it fails."""
    run_on_gpu(session, "torch")


@nox.session(default=False)
def gpu_jax(session: nox.Session) -> None:
    """Run the suite and the benchmarks with JAX on one GPU; without a GPU it fails."""
    run_on_gpu(session, "jax")


def run_on_gpu(session: nox.Session, backend: str) -> None:
    """Run the suite and the benchmarks on one GPU."""
    # PyTorch's CPU builds, where an index has them, would be taken before those of PyPI.
    session.install(
        *PINNED,
        *("-e", f".[{ALONE[backend]},dev]", CUDA[backend]),
        env=dict.fromkeys(("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")),
    )
    environment = (
        test_environment(session, backend)
        | OPTIMISED
        | {
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
            "KERAS_TRANSFER_GPU": "1",
            # Some tests start a second process beside the first, which would take the whole memory.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
    )
    session.run("python", "tests/backends/devices.py", env=environment)
    session.run("python", "-m", "pytest", *session.posargs, env=environment)
    real = REAL_BENCHMARKS if os.environ.get("KERAS_TRANSFER_REAL_DATA") else {}
    for name, arguments in (BENCHMARKS | real).items():
        command = ["python", f"benchmarks/{name}", "--backend", backend, *arguments]
        session.run(*command, env=environment)


@nox.session(reuse_venv=False)
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def solo(session: nox.Session, backend: str) -> None:
    """Use the installed package where this backend is the only one and no extra is installed."""
    session.install(*PINNED, f".[{backend}]")
    script = Path("tests", "solo", "check_solo.py")
    session.run("python", *WARNINGS, script, env=backend_environment(backend))


@nox.session(venv_backend="none", default=False, requires=["develop"])
def catalogue(session: nox.Session) -> None:
    """Write what is known of backbones anew, for another release of Keras or new checkpoints."""
    python = session.cache_dir.parent.resolve() / "develop" / "bin" / "python"
    # TensorFlow, as NASNetMobile can't be built on torch.
    environment = backend_environment("tensorflow")
    for script in ("tools/write_backbones.py", "tools/write_checkpoints.py"):
        session.run(python, script, env=environment, external=True)


@nox.session(default=False, reuse_venv=False, venv_backend="venv")
def constraints(session: nox.Session) -> None:
    """Write constraints.txt anew; further arguments go to `pip install`, for example pins."""
    path = Path("constraints.txt")
    header = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8")).group()
    session.install("-e", ".[all,dev,docs]", *session.posargs)
    frozen = session.run(
        *("python", "-m", "pip", "freeze", "--all", "--exclude", "pip", "--exclude-editable"),
        silent=True,
    )
    # Without local versions such as torch's +cpu, which exist in some indexes only.
    path.write_text(header + re.sub(r"\+\S+", "", frozen), encoding="utf-8")
