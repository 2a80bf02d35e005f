from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from edgellm.errors import ModelFileError
from edgellm.text.sandbox import MAX_STEPS, Sandbox

STEPS, BITS = "more than 10000000 steps", "beyond 64 bits"
DOUBLING = "{% set ns = namespace(x=START) %}{% for _ in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"


def doubling(start: str, step: str) -> str:
    return DOUBLING.replace("START", start).replace("STEP", step)


BLOCKS = "".join(f"{{% block b{i} %}}{{{{ self.b{i + 1}() }}}}{{{{ self.b{i + 1}() }}}}{{% endblock %}}" for i in range(60))
BLOCKS += "{% block b60 %}{% endblock %}"

HOSTILE = {
    # one operation
    "{% set x = 7 %}{{ (x ** (x ** 9)) % 3 }}": BITS,
    "{{ 2 ** 65 }}": BITS,
    "{{ 10 ** 18 * 10 ** 18 }}": BITS,
    "{{ ('f' * 1000000) | int(base=16) }}": BITS,
    "{{ 'a' * 1500000000 }}": STEPS,
    "{{ 1500000000 * 'a' }}": STEPS,
    "{{ [messages] * 1500000000 }}": STEPS,
    "{{ '%1500000000d' % 1 }}": "formats text with %",
    # one filter or method
    "{{ 'x' | center(1200000000) }}": "No filter named 'center'",
    "{{ '%1200000000d' | format(1) }}": "No filter named 'format'",
    "{{ 1 | round(1200000000) }}": "No filter named 'round'",
    "{{ lipsum(n=1200000000) }}": "'lipsum' is undefined",
    "{{ 'x'.center(1200000000) }}": "'center' of 'str' object is unsafe",
    "{{ 'x'['zfill'](1200000000) }}": "'zfill' of 'str' object is unsafe",
    "{{ '{:1200000000}'.format(1) }}": "'format' of 'str' object is unsafe",
    "{{ [] | map(attribute='sort') | first }}{{ (1).to_bytes(1200000000) }}": "'to_bytes' of 'int' object is unsafe",
    "{{ dict.fromkeys(range(99999), messages) }}": "no attribute 'fromkeys'",
    "{{ dict.update(messages[0], content='changed') }}": "no attribute 'update'",
    "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}": STEPS,
    "{% set x = 'a' * 100000 %}{{ x | replace('a', x) }}": STEPS,
    "{% set x = 'a' * 100000 %}{{ x.join(x) }}": STEPS,
    "{% set x = 'a' * 100000 %}{{ x | join(x) }}": STEPS,
    "{% set x = 'a' * 100000 %}{{ range(99999) | map(attribute='no', default=x) | join }}": STEPS,
    "{% set x = 'a' * 100000 %}{{ range(99999) | map('replace', '', x) | list }}": STEPS,
    "{% set x = 'a' * 1000000 %}{{ x.strip('b' * 1000000 + x) }}": "strips 2000000 characters",
    "{% set x = 'a' * 1000000 %}{{ x | trim('b' * 1000000 + x) }}": "strips 2000000 characters",
    "{{ ('日' * 9000000) | list }}": STEPS,
    "{{ messages | tojson(indent=1200000000) }}": "indents JSON by 1200000000",
    # growth in small steps
    doubling("'a'", "ns.x + ns.x"): STEPS,
    doubling("'a'", "ns.x ~ ns.x"): STEPS,
    doubling("99", "ns.x - (0 - ns.x)"): BITS,
    doubling("[]", "[ns.x, ns.x]"): STEPS,
    doubling("[]", "(ns.x, ns.x)"): STEPS,
    doubling("[]", "{'a': ns.x, 'b': ns.x}"): STEPS,
    doubling("[]", "dict(a=ns.x, b=ns.x)"): STEPS,
    doubling("'a'", "ns.x").replace("{% set ns.x = ns.x %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"): STEPS,
    "{% set x = 'a' * 4000000 %}{{ " + "~".join(["x"] * 9999) + " }}": STEPS,
    "{% set x = 'a' * 4000000 %}{% set y %}" + "{{ x }}" * 999 + "{% endset %}": STEPS,
    # many turns and calls
    "{% for a in range(9999) %}{{ 'a' * 10000 }}{% endfor %}": STEPS,
    "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}": STEPS,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}": STEPS,
    BLOCKS: STEPS,
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{{ " + "x" * 100_000 + " }}": "100006 characters; possible: up to 100000",
}

PROGRAM = """
import json, resource, signal, sys
from edgellm.text.sandbox import Sandbox
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
for template in json.load(sys.stdin):
    signal.alarm(20)  # its default action ends the process, which no exception could in the middle of an operation
    try:
        done = str(len(Sandbox().from_string(template).render(messages=[{"role": "user", "content": "hi"}])))
    except Exception as error:
        done = f"{type(error).__name__}: {error}"
    print(json.dumps(done), flush=True)
"""


@pytest.fixture(scope="module")
def endings() -> dict[str, str]:
    """How each hostile template ended, in a process with a GiB of address space and 20 seconds for each; it lacks those it died of."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(list(HOSTILE)), capture_output=True, text=True, check=False, timeout=300
    )
    return dict(zip(HOSTILE, map(json.loads, done.stdout.splitlines()), strict=False))


@pytest.mark.parametrize("template", HOSTILE, ids=[f"{i}-{template[:50]}" for i, template in enumerate(HOSTILE)])
def test_a_hostile_template_ends_soon_and_small(endings: dict[str, str], template: str) -> None:
    assert HOSTILE[template] in endings.get(template, "the process did not outlive this template or one before it")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ [1, 'a'] + [(2,)] }}{{ {'a': 1} }}", "[1, 'a', (2,)]{'a': 1}"),
        ("{{ 'a' ~ 1 ~ none }}{{ 'ab' * 2 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ 1000000 * 1000000 }}", "a1Noneabab310241000000000000"),
        ("{{ ['a', 1] | join('-') }}{{ '-'.join(['a', 'b']) }}{{ [] | join }}", "a-1a-b"),
        ("{{ 'abab' | replace('a', 'xy') }}{{ 'aa'.replace('a', 'b', 1) }}{{ 'aa' | replace('a', 'b', 1) }}", "xybxybbaba"),
        ("{{ ' a ' | trim }}{{ '-a-' | trim('-') }}{{ ' a\n'.strip() }}{{ 'a--'.rstrip('-') }}", "aaaa"),
        ("{{ 'a</think>b'.split('</think>')[-1].lstrip('\n') }}", "b"),
        ("{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ ns }}", "2<Namespace>"),
        ("{{ dict([('a', 1)], b=2) }}{% for k, v in {'c': 3}.items() %}{{ k }}{{ v }}{% endfor %}", "{'a': 1, 'b': 2}c3"),
        ("{% macro f(a, b='y') %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}{% call f('x') %}z{% endcall %}", "xyz"),
        ("{% for a in range(3) %}{{ loop.cycle('x', 'y') }}{{ loop.last }}{% endfor %}", "xFalseyFalsexTrue"),
        ("{% for a in [1, [2]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}", "12"),
        ("{% filter upper %}a{% endfilter %}{% set a | lower %}A{% endset %}{{ a }}", "Aa"),
        ("{{ {'é': [1]} | tojson }}{{ {'b': 1, 'a': '<'} | tojson(separators=(',', ':'), sort_keys=true) }}", '{"é": [1]}{"a":"<","b":1}'),
        ("{{ [1] | tojson(indent=2) }}{{ 'é' | tojson(ensure_ascii=true) }}", '[\n  1\n]"\\u00e9"'),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}", "['hi']"),
        ("{{ messages[0].get('content') }}{{ messages[0].items() | list | length }}{{ nothing is defined }}", "hi2False"),
    ],
)
def test_what_templates_use_works(template: str, text: str) -> None:
    assert Sandbox().from_string(template).render(messages=[{"role": "user", "content": "hi"}]) == text


def test_no_variable_takes_the_place_of_the_price() -> None:
    template = "{% set made = namespace %}{% set environment = made %}{% macro call() %}{% endmacro %}{{ 'a' * 9999 ~ 'a' * 9999999 }}"
    with pytest.raises(ModelFileError, match=STEPS):
        Sandbox().from_string(template).render()


def test_a_long_conversation_is_far_from_the_limit() -> None:
    chatml = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x" * 1000}] * 500
    sandbox = Sandbox()
    assert len(sandbox.from_string(chatml).render(messages=messages)) > 500_000
    sandbox.spend(MAX_STEPS // 2)  # half of them are left
