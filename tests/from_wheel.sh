#!/usr/bin/env bash
# Builds the sdist and from it the wheel, installs the wheel into an environment of its own with the
# newest highspy, and runs commands there on a small file. Some 3 minutes; the folder is removed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/${PYTHON:-.venv/bin/python}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$python" -m build --outdir "$place/dist" . >"$place/log" 2>&1 || { cat "$place/log"; exit 1; }
grep -v '^highspy==' constraints.txt >"$place/constraints.txt" # the newest, as users get it
"$python" -m venv "$place/venv"
PATH=$place/venv/bin:$PATH
pip install --quiet --no-compile --disable-pip-version-check -c "$place/constraints.txt" "$place"/dist/*.whl
mkdir "$place/use"
cd "$place/use"

step() {
    echo "   $*" >&2
    "$@" 2>err || { cat err >&2; exit 1; }
}
proved() {
    grep -q "$1" out || { cat out >&2; echo "no '$1' in the output" >&2; exit 1; }
}

python -c '
import numpy as np
logits = np.random.default_rng(0).normal(size=(2, 128, 8)).astype("float32")
np.savez("small.npz", router_logits=logits)'
step lp-routing --help >out
proved "report "
step lp-routing --version >out
proved "version $(python -c 'from importlib.metadata import version as v; print(v("lp-routing"))')"
step python -c '
import lp_routing as lpr
lpr.solve(lpr.problems.token_choice([[2.0, 1.0]], 1), lpr.HiGHS())' >out
[ ! -s out ] || { cat out; echo "HiGHS prints to standard output"; exit 1; }
step lp-routing verify small.npz --k 2 --jobs 1 >out
proved "^Proved: 14 optima"
step lp-routing gap small.npz --k 2 --routers optimum,drop-by-score --plot gap.png >out
proved "optimum"
step lp-routing frontier small.npz --k 2 --layers 0 --over capacity --points 3 --plot frontier.pdf >out
step lp-routing report small.npz --k 2 --layers 0 --routers drop-by-score -o report.html >out
[ ! -s out ] || { cat out; echo "report prints to standard output"; exit 1; }
ls gap.png frontier.pdf report.html >/dev/null
echo "the wheel works: $(pip list 2>/dev/null | grep -E '^(highspy|lp-routing|torch) ' | tr -s ' ' | paste -sd, -)"
