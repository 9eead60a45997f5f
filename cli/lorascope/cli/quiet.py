"""Other libraries' words on the terminal, kept down to what concerns the user."""

import warnings

from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging


def quiet_libraries() -> None:
    """Silence progress bars of other libraries, and the warnings that one library gives another."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # transformers 5.24's reader of .gguf draws tqdm's own bar, which that doesn't reach.
    modeling_gguf_pytorch_utils.tqdm = logging.tqdm  # type: ignore[attr-defined]
    # PEFT 0.21 asks transformers 5.24 for an attribute under its old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # PEFT looks for a config file beside a .gguf, to see whether the vocabulary grew; lorascope never adds to it.
    warnings.filterwarnings("ignore", message="Could not find a config file in", category=UserWarning)
