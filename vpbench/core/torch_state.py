"""What a program that calls vpbench has set in torch, NumPy and Python: left as it was, and without effect on the runs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def own_torch_state() -> Iterator[None]:
    """In the block gradients are on, float32 and the CPU are the defaults, and autocast is off, whatever the caller has set.

    Behind it all that is as before, and so are the global random streams and torch's number of threads.
    """
    import numpy as np
    import torch

    streams, numbers, dtype, threads = (
        random.getstate(),
        np.random.get_state(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    seed, had_cuda = torch.initial_seed(), torch.cuda.is_initialized()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count()) if had_cuda else []))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            random.setstate(streams)
            np.random.set_state(numbers)
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if torch.cuda.is_initialized() and not had_cuda:
                torch.cuda.manual_seed_all(seed)  # what the caller's own seed would have given
