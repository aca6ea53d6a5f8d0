#pragma once

#include "http/server.h"
#include "tests/support/fake_engine.h"
#include "tests/support/raw_client.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

namespace troupe::test {

/// A server over a fake engine, on a port of its own, and a client that sends bytes.
class ServerFixture : public ::testing::Test {
 protected:
  void start() {
    options_.port = 0;
    auto started = Server::start(engine_, options_);
    ASSERT_TRUE(started.ok()) << started.error().message;
    server_ = std::move(started).value();
  }
  RawResponse exchange(const std::string& bytes) {
    RawClient client(server_->port());
    EXPECT_TRUE(client.send(bytes));
    return read_response(client);
  }
  RawResponse get(const std::string& path, const std::string& fields = "") {
    return exchange(get_text(path, fields));
  }

  FakeEngine engine_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
};

}  // namespace troupe::test
