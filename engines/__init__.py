"""Networks to files to runtimes; reached by name from flowguide.diffusion and flowguide.flow."""
