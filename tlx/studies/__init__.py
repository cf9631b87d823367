"""One study a file: its spec above its run(spec, lab) -> Result."""
