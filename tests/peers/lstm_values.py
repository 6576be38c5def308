#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Makes the values that tests/host-lib/test_lstm.c compares with: outputs of PyTorch's LSTM, and
the gradient of a loss by PyTorch, for given weights and inputs.

usage: tests/peers/lstm_values.py >tests/host-lib/lstm_values.h
Debian packages: python3-torch
"""
import torch

# As in host-lib/lstm.h.
LANES, INPUTS, HIDDEN, LEVELS, STEPS, COUNT_FROM = 8, 10, 8, 9, 16, 8
FAR = 0.75


def array(name, tensor, comment):
    values = [f"{v:.9g}" for v in tensor.flatten().tolist()]
    print(f"/** {comment} */\nstatic const double {name}[] = {{")
    print("\n".join("\t" + ", ".join(values[i:i + 8]) + "," for i in range(0, len(values), 8)))
    print("};")


def main():
    torch.manual_seed(9)
    torch.set_default_dtype(torch.float64)
    net = torch.nn.LSTM(INPUTS, HIDDEN)
    x = torch.randn(STEPS, LANES, INPUTS).float().double()
    mix = (torch.randn(2, LEVELS, HIDDEN + 1) * 0.5).float().double().requires_grad_()
    level = torch.randn(STEPS, LANES, LEVELS).float().double()
    target = torch.randn(STEPS, LANES).float().double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.float().double())
        net.bias_hh_l0.zero_()  # moetap has one bias
    out, (_, cell) = net(x)
    one = torch.cat([out, torch.ones(STEPS, LANES, 1)], 2)
    weight = torch.softmax(one @ (mix[0] + FAR * mix[1]).T, 2)
    error = ((weight * level).sum(2) - target)[COUNT_FROM:]
    loss = (torch.sqrt(1 + error ** 2) - 1).sum()
    loss.backward()
    gate = torch.cat([net.weight_ih_l0, net.weight_hh_l0, net.bias_ih_l0[:, None]], 1)
    slope = torch.cat([net.weight_ih_l0.grad, net.weight_hh_l0.grad, net.bias_ih_l0.grad[:, None]], 1)

    print("/* SPDX-License-Identifier: BSD-3-Clause */")
    print("/* Made by tests/peers/lstm_values.py with PyTorch's torch.nn.LSTM. */")
    print("/* clang-format off */")
    array("torch_gate", gate.detach(), "Weights: inputs, outputs of the last step, bias.")
    array("torch_mix", mix.detach(), "Weights of the second layer.")
    array("torch_input", x.transpose(1, 2), "[steps][inputs][lanes]")
    array("torch_level", level.transpose(1, 2), "[steps][levels][lanes]")
    array("torch_target", target, "[steps][lanes]")
    array("torch_out", out.detach()[-1].T, "Output after the last step, [hidden][lanes].")
    array("torch_cell", cell.detach()[0].T, "Cell after the last step.")
    array("torch_weight", weight.detach()[-1].T, "Weights of the levels after the last step.")
    array("torch_gate_slope", slope, "Gradient of the loss.")
    array("torch_mix_slope", mix.grad, "Gradient of the loss.")
    print(f"static const double torch_far = {FAR}, torch_loss = {loss.item():.12g};")


main()
