"""What the reference implementations are asked: prompts for the logits, nasty text for the tokenizer, conversations."""

# ruff: noqa: RUF001 (ambiguous characters are the point)

from __future__ import annotations

PROMPTS: dict[str, str] = {
    "english": "The lighthouse keeper climbed the stairs every evening at dusk, lit the lamp, and wrote one line in the logbook: wind, sea,"
    " and the number of ships that had passed before the fog came in.",
    "german": "Der Leuchtturmwärter stieg jeden Abend bei Einbruch der Dämmerung die Treppe hinauf, zündete die Lampe an und schrieb"
    " eine Zeile ins Tagebuch.",
    "french": "Chaque soir, à la tombée de la nuit, le gardien du phare montait l'escalier, allumait la lampe et notait la force du vent.",
    "chinese": "每天傍晚,灯塔看守人都会爬上楼梯,点亮灯,然后在日志里写下一行字。",
    "arabic": "في كل مساء كان حارس المنارة يصعد الدرج ويشعل المصباح.",
    "hindi": "हर शाम प्रकाशस्तंभ का रखवाला सीढ़ियाँ चढ़ता था।",
    "emoji": "Party tonight 🎉🎂! Who brings the music 🎸🥁 and who the pizza 🍕? 👩‍🍳 👍🏽 🇫🇷",
    "python": "def fibonacci(n: int) -> int:\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n\n\n",
    "c": '#include <stdio.h>\n\nint main(void) {\n\tfor (int i = 0; i < 10; ++i)\n\t\tprintf("%d\\n", i * i);\n\treturn 0;\n}\n',
    "chat": "<|im_start|>user\nName three primary colours.<|im_end|>\n<|im_start|>assistant\n",
}
"""Name -> text, 14 to 63 tokens each."""

NASTY: tuple[str, ...] = (
    "",
    # Whitespace: runs, tabs, every line ending, spaces that are not U+0020, at the start, at the end, between.
    " ",
    "  ",
    "       seven",
    "trailing   ",
    "a  b   c    d",
    "\t\ttabs\tand \t mixed",
    "unix\nlines\n\nblank\n\n\n",
    "dos\r\nlines\r\n\r\nold mac\rend",
    " \n \n  \n\t\n",
    "no\u00a0break\u2003em\u2009thin\u200bzero\u3000ideographic\u2028line\u2029paragraph\x85next\x0bvt\x0cff",
    "\ufeffbyte order mark",
    # Control characters.
    "nul\x00inside\x00\x00",
    "".join(map(chr, range(0x20))),
    "\x7f\x80\x9f\x1b[31mred\x1b[0m",
    # Digits and other numbers: Digits(individual_digits) splits each one off, whatever its script.
    "1234567890" * 4,
    "in 1984, 3.14159 and 1,000,000.00 or 0x7fff + 1e-10",
    "a1b2 c3 4d  5e",
    "half ½ squared x² roman Ⅻ arabic ٣٤٥ devanagari १२३ full １２３ circled ①② cuneiform 𒐀",
    " ٣ ²³ ½½",
    # Contractions, quotes, punctuation.
    "I'm you're he'll they've she'd it's don't 'tis O'Neill's rock'n'roll I'M IT'S",
    "“curly” ‘quotes’ it’s «guillemets» „low“ — dash – en … ellipsis",
    "!!!???...,,,;;;:::---___===+++***///\\\\\\|||~~~```",
    "(((nested [brackets {of <every> kind} ] )))",
    # Scripts.
    "naïve café Ångström Straße ĲSSELMEER ﬁ ﬂ ŉ",
    "Привет, мир! Ёлка. Γειά σου Κόσμε. שלום עולם",
    "日本語のテキスト、カタカナ、ひらがな。中文文本,한국어 텍스트. ไทยไม่มีช่องว่าง",
    "مرحبا بالعالم، هذا نصٌّ مُشَكَّل",
    "हिन्दी में क्षेत्रज्ञ, தமிழ் எழுத்து, ქართული, አማርኛ",
    "mixedрусскийandعربيand日本語with1digits",
    "bidi \u202eoverride\u202c \u2066isolate\u2069 \u200eltr \u200frtl",
    # Combining marks: composed, decomposed, stacked.
    "é e\u0301 ñ n\u0303 Å A\u030a Å \u1e9b\u0323",
    "Z\u0351\u036b\u0343a\u0300\u0301\u0302\u0303l\u0334\u0335g\u035b\u0346o\u0321\u0322",
    "\u0301starts with a mark \u0300\u0301",
    # Emoji: skin tones, families, flags, keycaps, variation selectors, tag sequences.
    "🙂😀🤣 👍🏽👋🏿 ❤️ ❤ ☺️☺︎",
    "👨‍👩‍👧‍👦 🧑🏽‍🚀 🏳️‍🌈 👩‍❤️‍💋‍👨 🐻‍❄️",
    "🇩🇪🇫🇷🇨🇳 🇩 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f 1️⃣#️⃣*️⃣",
    "\u200d\ufe0f\u200d",
    # Outside the basic plane, private use, noncharacters, the last code point.
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒻𝓊𝓃 𐍈 𠜎𠜱 𓀀 \U0001d11e",
    "\ue000\uf8ff\ufdd0\ufffe\uffff\ufffd\U0010ffff",
    # Very long words, repetition.
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "a" * 300,
    "ab" * 150,
    " " * 200 + "x",
    "\n" * 70,
    "https://user:pa%20ss@example.com:8080/a/b/../c?q=1&r[]=%F0%9F%98%80#frag",
    "ACGTACGTTTGACCAGT" * 6,
    "QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
    # Code.
    "def f(x: int = 0, *args, **kw) -> None:\n    '''doc'''\n\treturn x if x else {**kw}  # comment\n",
    "for(int i=0;i<n;++i){a[i]+=b[i]<<2;}\n#define MAX(a,b) ((a)>(b)?(a):(b))\n",
    "SELECT `id`, \"name\" FROM t WHERE x <> 'y' -- z\n\t\t;",
    '{"k": [1, 2.5e3, null, true], "u": "\\u00e9\\n"}',
    '<div class="a">&nbsp;&amp;</div><!-- -->',
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE $var @decorator #tag %fmt",
    # Special tokens, and what only looks like one.
    "<|im_start|>system\nYou are.<|im_end|>\n<|im_start|>user\n",
    "text<|endoftext|>text <|endoftext|> text",
    "<|im_start|><|im_start|><|im_end|>",
    "<|im_start |> <|IM_START|> <|im_start|",
    "<|im_start<|im_end|>|>",
    "<s></s><unk><pad>[INST][/INST]<|begin_of_text|><bos>",
    "<repo_name>a/b<file_sep>c.py<gh_stars>9<jupyter_code>x<empty_output>",
    "<repo_name >< file_sep><issue_start",
    "  <|im_end|>  \n  <|im_end|>",
)
"""Text that tokenizers get wrong. Lone surrogates are left out: they have no UTF-8 encoding."""

CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "one_turn": [{"role": "user", "content": "What is 2 + 2?"}],
    "system": [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Which colour has the sky?"},
    ],
    "history": [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is my name?"},
    ],
    "nasty_content": [{"role": "user", "content": "  {{ 7 * 7 }} {% raw %} <|im_end|>\n\n é 👩‍🍳 "}],
}
"""Name -> messages."""
