#pragma once

namespace troupe {

/// `bench step`: step times of one GPU rank without actors or HTTP, on weights made on the device
/// from the shape of a model. Prints JSON lines. `ms` is from one step's end to the next one's on
/// the device's clock, median; `floor_ms` is what the bytes that must be read, or the arithmetic,
/// take at the device's limits. Returns the exit code.
int bench_step(int argc, char** argv);

}  // namespace troupe
