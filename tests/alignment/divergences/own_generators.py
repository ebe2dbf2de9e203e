"""Generators as a user may write them, fine ones and faulty ones."""

import math

import torch


def relative_entropy(u):
    """Forward KL, in other words."""
    return u * torch.log(u)


def reversed_entropy(u):
    return -torch.log(u)


def mean_of_both(u):
    return 0.5 * (u * torch.log(2 * u / (u + 1)) + torch.log(2 / (u + 1)))


def square(u):
    return (u - 1) ** 2


def roots(u):
    return (torch.sqrt(u) - 1) ** 2


def triangle(u):
    return (u - 1) ** 2 / (u + 1)


def quartic_over_cubic(u):  # infinity over infinity for large u
    return (u - 1) ** 4 / (u + 1) ** 3


def kinked(u):
    return 0.5 * torch.abs(u - 1)


def integral_of_fairl(u):  # f'' = -(1 + log u) / u
    return -0.5 * u * torch.log(u) ** 2


def roof(u):
    return -torch.abs(u - 1)


def line(u):
    return 3 * (u - 1)


def lifted(u):
    return (u - 1) ** 2 + 0.25


def undefined_below_one(u):
    return torch.sqrt(u - 1)


def forgetful(u):
    return u * torch.log(u.detach())


def forgetful_below_the_line(u):
    return (u - 1) ** 2 / u.detach()


def detached(u):
    return (u.detach() - 1) ** 2


def of_numbers(u):
    scaled = u * 2
    return scaled * math.log(u)


def summed(u):
    return (u * torch.log(u)).sum()


NOT_A_FUNCTION = 3.0
