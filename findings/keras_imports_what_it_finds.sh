#!/usr/bin/env bash
# `import keras` imports packages that nobody asked for, because they are installed.
#
# Expected: Keras has one backend in a process, and helpers for data frames, plots and scikit-learn. It
# would import these where they are used, as it does TensorFlow's parts on the other backends.
# What happens (Keras 3.15.1 on torch): `import keras` imports pandas, matplotlib and scikit-learn, with
# SciPy, if they are installed, and JAX, for checkpoints: 4,108 modules instead of 2,564.
# Where it matters: a command line or a server that starts often; an environment of notebooks has all of
# them. Nothing but what is installed decides, so a quick start becomes slow by an unrelated `pip install`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install --quiet "$@"; }
pip keras==3.15.1 torch==2.13.0 numpy==2.4.6
export KERAS_HOME=$folder/keras KERAS_BACKEND=torch

cat > "$folder/look.py" <<'PYTHON'
import json
import sys

import keras

asked = {"jax", "matplotlib", "pandas", "scipy", "sklearn"}
print(json.dumps({"keras": keras.__version__, "found": sorted(asked & set(sys.modules)), "modules": len(sys.modules)}))
PYTHON

before=$("$folder/venv/bin/python" "$folder/look.py")
pip pandas==3.1.1 scikit-learn==1.9.1 matplotlib==3.11.2 jax==0.10.2
after=$("$folder/venv/bin/python" "$folder/look.py")
echo "without: $before"
echo "with:    $after"
"$folder/venv/bin/python" - "$before" "$after" <<'PYTHON'
import json
import sys

before, after = map(json.loads, sys.argv[1:])
assert before["found"] == [], before
assert {"jax", "matplotlib", "pandas", "sklearn"} <= set(after["found"]), "Keras leaves some of them alone now"
assert after["modules"] > before["modules"] + 1000, (before["modules"], after["modules"])
PYTHON
