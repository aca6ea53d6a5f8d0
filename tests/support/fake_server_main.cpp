// The gateway over an engine without a model: for client tests. Prints its port, serves until its
// standard input ends. fake_server [API-KEY]
#include "http/server.h"
#include "tests/support/fake_engine.h"
#include "tests/support/picture.h"

#include <cstdio>
#include <iostream>
#include <string>

int main(int argc, char** argv) {
  troupe::test::FakeEngine engine({.token_delay = std::chrono::milliseconds(1)});
  engine.set_snapshot(troupe::test::picture());
  troupe::ServerOptions options;
  if (argc > 1) options.api_keys = {argv[1]};
  options.port = 0;
  auto server = troupe::Server::start(engine, options);
  if (!server) {
    std::fprintf(stderr, "%s\n", server.error().message.c_str());
    return 2;
  }
  std::printf("%d\n", static_cast<int>((*server)->port()));
  std::fflush(stdout);
  std::string line;
  while (std::getline(std::cin, line)) {
  }
  (*server)->stop();
  return 0;
}
