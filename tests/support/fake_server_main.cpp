// The gateway over an engine without a model: for client tests. Prints its port, serves until its
// standard input ends.
#include "http/server.h"
#include "tests/support/fake_engine.h"

#include <cstdio>
#include <iostream>
#include <string>

int main() {
  troupe::test::FakeEngine engine({.token_delay = std::chrono::milliseconds(1)});
  troupe::ServerOptions options;
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
