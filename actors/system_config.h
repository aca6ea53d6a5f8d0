#pragma once

#include "actors/node.h"

#include <caf/actor_system_config.hpp>

namespace troupe {

/// CAF set up for one node. Networking only with the run's certificates: there is no plain mode.
class SystemConfig : public caf::actor_system_config {
 public:
  /// `tls` null: no networking at all.
  explicit SystemConfig(const TlsFiles* tls);
};

/// Takes away CAF's remote services (spawn, configuration), which nobody here uses.
void close_remote_services(caf::actor_system& system);

}  // namespace troupe
