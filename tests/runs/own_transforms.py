"""Transforms that runs of tests name by their path."""

import random

import torch
from torch import Tensor
from torchvision.transforms import v2

colours = v2.Compose([v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.RandomGrayscale(0.2)])
noise = v2.GaussianNoise(sigma=0.05)
whole = v2.Compose([v2.RandomResizedCrop(32, antialias=True), v2.RandomHorizontalFlip()])


def by_all_generators(crop: Tensor) -> Tensor:
    return (crop * random.uniform(0.5, 1) + 0.1 * torch.rand(crop.shape)).clamp(0, 1)


def twice_as_large(crop: Tensor) -> Tensor:
    return crop.repeat(1, 2, 2)
