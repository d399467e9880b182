"""Text in, tokens out, and back: the tokenizer, and prompts with holes."""
