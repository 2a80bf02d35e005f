"""Text in and out: tokenizer, chat template, stop strings. Knows no weights and no engine."""
