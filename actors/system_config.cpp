#include "actors/system_config.h"

#include "actors/messages.h"
#include "actors/ssl_errors.h"

#include <caf/actor_registry.hpp>
#include <caf/actor_system.hpp>
#include <caf/io/middleman.hpp>
#include <caf/openssl/manager.hpp>

#include <chrono>
#include <cstdint>
#include <limits>

namespace troupe {

SystemConfig::SystemConfig(const TlsFiles* tls) {
  add_message_types<caf::id_block::troupe>();
  // Two workers: the actors are light, and the cores belong to the ranks. The sharing scheduler
  // sleeps when idle, work stealing polls.
  set("scheduler.policy", caf::atom("sharing"));
  set("scheduler.max-threads", size_t{2});
  set("logger.console", caf::atom("none"));
  if (tls == nullptr) return;
  separate_ssl_errors();
  load<caf::io::middleman>();
  load<caf::openssl::manager>();
  openssl_certificate = tls->certificate;
  openssl_key = tls->key;
  openssl_cafile = tls->ca;
  // Messages are read where they arrive: handing each to a worker of CAF's costs two more switches
  // of threads, which is more than the reading of a plan or a result.
  set("middleman.workers", size_t{0});
  // Reads until nothing is there, see SSL_read in ssl_errors.cpp.
  set("middleman.max-consecutive-reads", size_t{std::numeric_limits<int32_t>::max()});
  // A frozen peer is noticed after two seconds.
  set("middleman.heartbeat-interval", caf::timespan{std::chrono::milliseconds{500}});
  set("middleman.connection-timeout", caf::timespan{std::chrono::seconds{2}});
}

void close_remote_services(caf::actor_system& system) {
  system.registry().erase(caf::atom("SpawnServ"));
  system.registry().erase(caf::atom("ConfigServ"));
}

}  // namespace troupe
