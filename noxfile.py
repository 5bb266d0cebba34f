"""``nox`` runs every session, ``nox -s "tests(jax)" -- tests/test_freezing.py`` a part of one."""

import re
from pathlib import Path

import nox

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

BACKENDS = ["tensorflow", "torch", "jax"]
# Exact versions for every environment.
PINNED = ("-c", "constraints.txt")
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
    return backend_environment(backend) | {
        "OMP_NUM_THREADS": "1",  # more would wait for each other on a small machine
        # Tests compile the same small programs again and again, in both processes.
        "JAX_COMPILATION_CACHE_DIR": str(session.cache_dir.resolve() / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install(*PINNED, "ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


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
    session.run("python", "-m", "pip", "check")


@nox.session(venv_backend="none", requires=["develop"])
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Run the suite on one backend, in the environment of `develop`."""
    python = session.cache_dir.parent.resolve() / "develop" / "bin" / "python"
    environment = test_environment(session, backend)
    command = [python, "-m", "pytest", "-n", "2", *session.posargs]
    session.run(*command, env=environment, external=True)


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
        session.run("python", "-m", "pip", "uninstall", "-y", "keras")
        session.install("--pre", "--upgrade", "keras-nightly")
    for backend in BACKENDS:
        environment = test_environment(session, backend)
        session.run("python", "-m", "pytest", "-n", "2", *session.posargs, env=environment)


@nox.session(reuse_venv=False)
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def solo(session: nox.Session, backend: str) -> None:
    """Use the installed package where this backend is the only one and no extra is installed."""
    session.install(*PINNED, f".[{backend}]")
    script = Path("tests", "solo", "check_solo.py")
    session.run("python", *WARNINGS, script, env=backend_environment(backend))


@nox.session(venv_backend="none", default=False, requires=["develop"])
def catalogue(session: nox.Session) -> None:
    """Write keras_transfer/backbones.json anew, for another release of Keras."""
    python = session.cache_dir.parent.resolve() / "develop" / "bin" / "python"
    # TensorFlow, as NASNetMobile can't be built on torch.
    environment = backend_environment("tensorflow")
    session.run(python, "tools/write_backbones.py", env=environment, external=True)


@nox.session(default=False, reuse_venv=False)
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
