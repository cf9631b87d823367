"""Atlas: everything known of one network and one target, block by block, in one figure."""
