"""Samplers: functions of (denoise, schedule, noise, rng), written in (alpha, sigma) for every schedule."""
