"""Behaviour cloning in plain PyTorch, frames drawn by weight: `python examples/weighted_sampler.py DATASET SCORES`."""

import sys

import torch
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from hf_ptr import load_dataset, read_weights

table = load_dataset(sys.argv[1])
state, action = (torch.from_numpy(table.feature(name)) for name in ("observation.state", "action"))
weights = read_weights(sys.argv[2], table)
sampler = WeightedRandomSampler(weights, num_samples=len(weights))
policy = torch.nn.Sequential(torch.nn.LazyLinear(64), torch.nn.ReLU(), torch.nn.Linear(64, action.shape[1]))
policy(state[:1])
optimizer = torch.optim.AdamW(policy.parameters())
for seen, done in DataLoader(TensorDataset(state, action), batch_size=64, sampler=sampler):
    loss = (policy(seen) - done).abs().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"one epoch of {len(weights)} draws, last loss {loss.item():.3f}")
