# What there is to run here; `just` alone lists it. Everything runs in .venv, which `python3 install.py test dev` makes.

export NO_MKDOCS_2_WARNING := "1"

_list:
    @just --list

# Run tests: all of them, or what is given, such as `just test tests/engine -m "not slow"`.
test *options:
    .venv/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder {{ options }}

# Run all tests, and measure which lines of the package they reach: the state machines take twice as long.
coverage:
    .venv/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=term

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

# Run every benchmark at a small size; benchmarks/README.md has the commands of the full ones.
bench:
    for benchmark in $(grep -l '^if __name__' benchmarks/*.py); do .venv/bin/python $benchmark --small || exit 1; done

# Make a video with the emulator, at no cost.
demo prompt="A cat playing with a ball":
    env -u XAI_API_KEY .venv/bin/xai-video generate "{{ prompt }}" --duration 6
