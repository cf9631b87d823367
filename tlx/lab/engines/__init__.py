"""Engines that run tasks: in this process or in worker processes."""
