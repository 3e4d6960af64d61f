"""What a training loop needs beside the loop: data order, schedule, guards, checkpoints."""
