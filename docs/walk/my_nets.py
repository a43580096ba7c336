"""A classifier that somebody has trained already: ResNet-18, from scratch, on class folders of photographs.

`python my_nets.py photographs/train mine.safetensors`, some minutes on two cores for 400 images.
"""

import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

EPOCHS, MEAN, STD = 30, [0.45, 0.41, 0.29], [0.29, 0.26, 0.29]


def make_net(num_classes: int) -> nn.Module:
    """The net without its weights: what params.yaml names."""
    return resnet18(num_classes=num_classes)


def train(folder: str, file: str) -> None:
    """Train on the images of class folders, and save the weights."""
    torch.manual_seed(0)
    augment = [v2.Resize((72, 72)), v2.RandomCrop(64), v2.RandomHorizontalFlip()]
    scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    images = ImageFolder(folder, v2.Compose([v2.ToImage(), *augment, *scale]))
    loader = torch.utils.data.DataLoader(images, batch_size=32, shuffle=True, drop_last=True)
    net = make_net(len(images.classes))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=EPOCHS * len(loader))
    for epoch in range(EPOCHS):
        for batch, labels in loader:
            loss = nn.functional.cross_entropy(net(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.2f}")
    save_file(net.state_dict(), file)


if __name__ == "__main__":
    train(*sys.argv[1:])
