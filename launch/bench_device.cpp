#include "launch/bench_device.h"

#include "gpu/model/rope.h"
#include "gpu/sim/model_shapes.h"

namespace troupe {

Result<ModelConfig> find_bench_model(const std::string& name) {
  auto found = find_model_shape(name);
  if (!found || !found->rope.inverse_frequency.empty()) return found;
  ModelConfig& c = *found;
  c.max_context = std::min(c.max_context, 8192);
  if (const Status s = resolve_rope(c.rope, c.head_dim, 500000.0, {}); !s) return s.error();
  return found;
}

}  // namespace troupe
