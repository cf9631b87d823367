"""Run the frozen prefix of a network once and train on its cached outputs."""
