"""`python -m edgellm.measure.energy`: which energy providers there are here, and why the others are not."""

from __future__ import annotations

from edgellm.measure.energy.detect import detect, lines, not_available


def main() -> None:
    """Print a line for each, and what energy is measured by."""
    detected = detect()
    provider = next((found.provider for found in detected if found.provider), None)
    print(lines(detected))
    print(f"\nenergy: {f'{provider.name}, {provider.kind}' if provider else not_available(detected)}")


if __name__ == "__main__":
    main()
