"""Make `.venv` hold the package as the sources are now, with all that its tests need; do nothing when it already does.

What is installed is remembered as two digests, of what decides the dependencies and of what decides the compiled module.
So a second run asks no network, and a changed C file rebuilds the module without one. Whatever goes wrong is said in one line.
"""

import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from scripts.prerequisites import missing_for_build, missing_for_environment

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "edgellm-installed.json"

SYMPTOMS = {
    "no network: the Python package index cannot be reached. Connect, or point pip at a mirror (PIP_INDEX_URL)": (
        "Temporary failure in name resolution",
        "Name or service not known",
        "Network is unreachable",
        "Connection refused",
        "NewConnectionError",
        "NameResolutionError",
        "ConnectTimeoutError",
        "ProxyError",
        "No matching distribution found",
    ),
    "disk full: pip ran out of space. Free 2 GB here and in TMPDIR": ("No space left on device", "Errno 28"),
}


def stop(message: str) -> NoReturn:
    """End with one line and the exit code for a reason that the user can act on."""
    sys.stderr.write(f"edgellm: {message}\n")
    raise SystemExit(2)


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names and contents, so that a copy with new dates counts as unchanged."""
    state = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        state.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    return state.hexdigest()


def wanted_state() -> dict[str, str]:
    """The digests of the sources as they are now."""
    return {
        "dependencies": digest([ROOT / "pyproject.toml"]),
        "native": digest([ROOT / "setup.py", *(path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".c", ".h", ".py"})]),
    }


def compiled_module() -> list[Path]:
    """The compiled module in the source tree, if there is one."""
    return list((ROOT / "edgellm").glob("_native*.so"))


def installed_state() -> dict[str, str]:
    """The digests of the sources that were installed, less the native one if that binary was replaced or removed since."""
    if not STAMP.is_file():
        return {}
    state: dict[str, str] = json.loads(STAMP.read_text(encoding="utf-8"))
    if state.pop("binary", "") != digest(compiled_module()):
        state.pop("native", None)
    return state


def remember(state: dict[str, str]) -> None:
    """Note what was installed, and which binary came of it."""
    STAMP.write_text(json.dumps({**state, "binary": digest(compiled_module())}), encoding="utf-8")


def explain(output: str) -> str:
    """One line for pip's pages: the known cause, else the last error that it printed."""
    for message, signs in SYMPTOMS.items():
        if any(sign in output for sign in signs):
            return message
    errors = [line for line in output.splitlines() if "error" in line.lower() or line.startswith("edgellm:")]
    return f"pip failed: {errors[-1].strip() if errors else 'it gave no reason'}"


def pip_install(*arguments: str) -> None:
    """Run pip inside the environment; its output is shown only when the cause is not a known one."""
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "2", *arguments]
    result = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        message = explain(result.stdout)
        if message not in SYMPTOMS:
            sys.stderr.write(result.stdout)
        stop(message)


def create() -> None:
    """Make the empty environment, of the Python that runs this."""
    if problem := missing_for_environment(ROOT):
        stop(problem)
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], text=True, capture_output=True, check=False)
    if result.returncode:
        stop(f"no environment in {ENVIRONMENT}: {explain(result.stdout + result.stderr)}")


def works() -> bool:
    """Whether the environment's Python starts and has pip: not after the Python beneath it was removed, or its making interrupted."""
    return PYTHON.exists() and subprocess.run([str(PYTHON), "-c", "import pip"], capture_output=True, check=False).returncode == 0


def main() -> None:
    """Bring the environment up to date, in as few steps as that takes."""
    wanted, installed = wanted_state(), installed_state()
    if wanted == installed and works():
        return
    if problem := missing_for_build():
        stop(problem)
    if not works():
        create()
        installed = {}
    STAMP.unlink(missing_ok=True)
    if wanted["dependencies"] != installed.get("dependencies"):
        print("edgellm: installing the package and its tools into .venv (once, a minute or two)", flush=True)
        pip_install(*tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"])
        pip_install("--no-build-isolation", "--editable", ".[dev]")
    else:
        print("edgellm: rebuilding the C module", flush=True)
        pip_install("--no-build-isolation", "--no-deps", "--editable", ".")
    remember(wanted)


if __name__ == "__main__":
    main()
