"What every test starts from: no network, one thread, the same random state, and CUDA tests only where there is CUDA."
import os
import random

# before any import of a hub client: nothing in this suite may ask the network for weights
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn after a fork otherwise
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors gain nothing from threads, and on a busy machine threads wait for each other

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_state():
    "Every test may rely on the same draws, whatever ran before it."
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available(): return
    for item in items:
        if item.get_closest_marker("cuda"): item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and this machine has none"))
