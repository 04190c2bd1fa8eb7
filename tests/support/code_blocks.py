"""The code blocks of README and docs, run as their readers would run them."""

import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>.+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>python|bash)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block of a page; `reason` says why it does not run, and is None if it does."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def has_tests(self) -> bool:
        return self.language == "python" and re.search(r"^(async )?def test_", self.code, re.MULTILINE) is not None


def code_blocks(page: Path) -> list[CodeBlock]:
    text = page.read_text()
    name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
    return [
        CodeBlock(name, text.count("\n", 0, match.start("code")), match["language"], match["code"], match["reason"])
        for match in FENCE.finditer(text)
    ]


def run_python(blocks: list[CodeBlock], directory: Path) -> None:
    """Run blocks of Python in their order, each as a script of its own."""
    for block in blocks:
        script = directory / "block.py"
        script.write_text(block.code)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except BaseException as error:
            error.add_note(f"in the block of {block.place}:\n{block.code}")
            raise


def run_tests(blocks: list[CodeBlock], directory: Path, **env: str) -> None:
    """Run blocks with tests, each as a module of one suite."""
    modules = {f"test_{re.sub('[^a-z0-9]', '_', block.place)}.py": block.code for block in blocks}
    for name, code in modules.items():
        (directory / name).write_text(code)
    _run([sys.executable, "-m", "pytest", *modules], directory, env | {"PYTEST_ADDOPTS": ""})


def run_bash(blocks: list[CodeBlock], directory: Path, **env: str) -> None:
    """Run blocks of Bash in their order in one shell, as somebody types them; the first failure ends it."""
    script = "".join(f"echo '== {block.place}' >&2\n{block.code}" for block in blocks)
    _run(["bash", "-euo", "pipefail", "-c", script], directory, env)


def _run(command: list[str], directory: Path, env: dict[str, str]) -> None:
    ended = subprocess.run(
        command, cwd=directory, env=os.environ | env, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
