"""A LoRA adapter's folder, read without torch or PEFT: its settings, its factors, and their spectrum."""
