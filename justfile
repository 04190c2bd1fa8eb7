# What there is to run here; `just` alone lists it. Everything runs in .venv, which `python3 install.py test dev` makes.

export NO_MKDOCS_2_WARNING := "1"

_list:
    @just --list

# Run tests: all of them, or what is given, such as `just test tests/engine -m "not slow"`.
test *options:
    .venv/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder {{ options }}

# Run all tests, and measure which lines of the package they reach: the state machines take twice as long.
coverage: (test "--cov --cov-report=term")

# Check style, types and spelling.
lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    .venv/bin/codespell

# Build the documentation strictly, and serve it at http://127.0.0.1:8000.
docs:
    .venv/bin/uv pip install -q --python .venv/bin/python --group docs
    .venv/bin/mkdocs build --quiet --strict
    .venv/bin/python -m http.server 8000 --bind 127.0.0.1 --directory build/site

# Run every benchmark at a small size, four at a time: that shows whether they run. benchmarks/README.md has the full ones.
bench:
    #!/usr/bin/env bash
    set -euo pipefail
    run_small='said=$(.venv/bin/python "$0" --small 2>&1) && end=0 || end=$?; printf -- "-- %s\n%s\n" "$0" "$said"; exit $end'
    grep -l '^if __name__' benchmarks/*.py | xargs -P 4 -I{} bash -c "$run_small" {}

# Make a video with the emulator, at no cost.
demo prompt="A cat playing with a ball":
    env -u XAI_API_KEY .venv/bin/xai-video generate "{{ prompt }}" --duration 6
