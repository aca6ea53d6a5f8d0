// HTTP itself, over real sockets: routes, framing, limits, keep-alive, keys.

#include "tests/http/server_fixture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <vector>

namespace troupe {
namespace {

using nlohmann::json;
using test::FakeEngine;
using test::get_text;
using test::post_text;
using test::RawClient;
using test::RawResponse;
using test::read_response;
using ::testing::HasSubstr;
using ::testing::Not;

class Http : public test::ServerFixture {
 protected:
  RawResponse post(const std::string& path, const std::string& body) {
    return exchange(post_text(path, body));
  }
  /// After whatever a test did, a good request works.
  void expect_alive() {
    EXPECT_EQ(post("/v1/completions", R"({"prompt":"x","max_tokens":2})").status, 200);
  }
};

TEST_F(Http, Models) {
  start();
  const json list = json::parse(get("/v1/models").body);
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "fake");
  EXPECT_EQ(list["data"][0]["max_model_len"], 512);
  EXPECT_EQ(json::parse(get("/v1/models/fake").body)["id"], "fake");
  const RawResponse other = get("/v1/models/other");
  EXPECT_EQ(other.status, 404);
  EXPECT_EQ(json::parse(other.body)["error"]["code"], "model_not_found");
}

TEST_F(Http, HealthReadyMetricsVersion) {
  start();
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/ready").status, 200);
  EXPECT_THAT(get("/metrics").body, HasSubstr("vllm:num_requests_running"));
  EXPECT_EQ(json::parse(get("/version").body)["version"], "0.1.0");
  EngineStats stats;
  stats.ready = true;
  stats.draining = true;
  engine_.set_stats(stats);
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/ready").status, 503);
  stats.draining = false;
  stats.ready = false;
  engine_.set_stats(stats);
  EXPECT_EQ(get("/ready").status, 503);
}

TEST_F(Http, TokenizeAndBack) {
  start();
  const json tokens = json::parse(post("/tokenize", R"({"prompt":"abc"})").body);
  EXPECT_EQ(tokens["tokens"], json::parse("[97,98,99]"));
  EXPECT_EQ(tokens["count"], 3);
  EXPECT_EQ(json::parse(post("/detokenize", R"({"tokens":[97,98]})").body)["prompt"], "ab");
  EXPECT_EQ(json::parse(post("/detokenize", R"({"tokens":[255]})").body)["prompt"], "\xEF\xBF\xBD");
  EXPECT_EQ(post("/detokenize", R"({"tokens":[256]})").status, 400);
  EXPECT_EQ(post("/tokenize", R"({})").status, 400);
}

TEST_F(Http, ResetsThePrefixCache) {
  start();
  EXPECT_EQ(
      exchange("POST /reset_prefix_cache HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n").status,
      200);
  EXPECT_EQ(get("/reset_prefix_cache").status, 405);
  EXPECT_EQ(engine_.cache_resets, 1);
}

TEST_F(Http, Methods) {
  start();
  EXPECT_EQ(get("/nothing").status, 404);
  EXPECT_EQ(json::parse(get("/nothing").body)["error"]["code"], "not_found");
  const RawResponse wrong = get("/v1/completions");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_THAT(wrong.head, HasSubstr("Allow: POST"));
  for (const char* method : {"PUT", "TRACE", "DELETE", "PATCH", "BREW"}) {
    EXPECT_EQ(exchange(std::string(method) + " /health HTTP/1.1\r\nHost: t\r\n\r\n").status, 405)
        << method;
  }
  const RawResponse options = exchange("OPTIONS /health HTTP/1.1\r\nHost: t\r\n\r\n");
  EXPECT_EQ(options.status, 204);
  EXPECT_THAT(options.head, HasSubstr("Allow: GET"));
  EXPECT_THAT(options.head, Not(HasSubstr("Access-Control")));
  RawClient client(server_->port());
  client.send("HEAD /v1/models HTTP/1.1\r\nHost: t\r\n\r\n" + get_text("/health"));
  const RawResponse head = read_response(client, true);
  EXPECT_EQ(head.status, 200);
  EXPECT_THAT(head.head, HasSubstr("Content-Length: "));
  EXPECT_EQ(read_response(client).body, R"({"status":"ok"})") << "no body came after HEAD";
}

TEST_F(Http, BadBodiesReachNoEngine) {
  start();
  for (const char* body :
       {"", "{", "[]", "5", "\"x\"", "null", "{\"prompt\":\"\xff\"}", R"({"prompt":""})",
        R"({"prompt":"x","max_tokens":1.5})", R"({"prompt":"x","prompt":"y"})"}) {
    const RawResponse r = post("/v1/completions", body);
    EXPECT_EQ(r.status, 400) << body;
    EXPECT_EQ(json::parse(r.body)["error"]["type"], "invalid_request_error") << body;
  }
  EXPECT_EQ(post("/v1/completions", std::string(1'000'000, '[')).status, 400);
  EXPECT_EQ(post("/v1/completions", R"({"prompt":"x","model":"no"})").status, 404);
  EXPECT_EQ(engine_.submitted(), 0);
  expect_alive();
}

TEST_F(Http, MediaTypes) {
  start();
  const std::string body = R"({"prompt":"x"})";
  const auto with = [&](const std::string& fields) {
    return exchange("POST /v1/completions HTTP/1.1\r\nHost: t\r\n" + fields +
                    "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body)
        .status;
  };
  EXPECT_EQ(with("Content-Type: text/plain\r\n"), 415);
  EXPECT_EQ(with(""), 415);
  EXPECT_EQ(with("Content-Type: application/json\r\nContent-Encoding: gzip\r\n"), 415);
  EXPECT_EQ(with("Content-Type: application/json; charset=utf-8\r\n"), 200);
}

TEST_F(Http, BodyLimit) {
  start();
  RawClient announced(server_->port());
  announced.send(
      "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Content-Length: 10000000\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(read_response(announced).status, 413) << "before any of the body, and without a 100";
  EXPECT_EQ(post("/v1/completions", std::string(10'000'000, ' ')).status, 413)
      << "a client that sends it all first still gets the answer";
  RawClient chunked(server_->port());
  chunked.send(
      "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = "10000\r\n" + std::string(65536, ' ') + "\r\n";
  for (int i = 0; i < 64; ++i) chunked.send(chunk);
  EXPECT_EQ(read_response(chunked).status, 413);
  EXPECT_EQ(exchange("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: "
                     "9223372036854775808\r\n\r\n")
                .status,
            400);
  expect_alive();
}

TEST_F(Http, ChunkedBodiesAndContinue) {
  start();
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: Chunked\r\n";
  EXPECT_EQ(exchange(head + "\r\n5;a=b\r\n{\"pro\r\n9\r\nmpt\":\"x\"}\r\n0\r\n\r\n").status, 200);
  EXPECT_EQ(exchange(head + "\r\nFFFFFFFFFFFFFFFFF\r\n").status, 400);
  EXPECT_EQ(exchange(head + "\r\n-2\r\n").status, 400);
  EXPECT_EQ(exchange(head + "\r\n5;" + std::string(100'000, 'a') + "\r\n").status, 400);
  RawClient client(server_->port());
  client.send(head + "Expect: 100-continue\r\n\r\n");
  EXPECT_EQ(read_response(client).status, 100);
  client.send("e\r\n{\"prompt\":\"x\"}\r\n0\r\n\r\n");
  EXPECT_EQ(read_response(client).status, 200);
  EXPECT_EQ(exchange(head + "Expect: magic\r\n\r\n").status, 417);
  expect_alive();
}

TEST_F(Http, SmugglingIsRefusedAndWhatFollowsIsNotRead) {
  start();
  const std::vector<std::string> heads = {
      "Host: t\r\nTransfer-Encoding: chunked, identity\r\n",
      "Host: t\r\nTransfer-Encoding: xchunked\r\n",
      "Host: t\r\nTransfer-Encoding: identity\r\n",
      "Host: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      "Host: t\r\nTransfer-Encoding:\r\n chunked\r\n",
      "Host: t\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
      "Host: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
      "Host: t\r\nContent-Length: 3,3\r\n",
      "Host: t\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
      "Host: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
      "Host: t\r\nContent-Length: +5\r\n",
      "Host: t\r\nContent-Length: -1\r\n",
      "Host: t\r\nContent-Length: 0x5\r\n",
      "Host: t\r\nContent-Length : 5\r\n",
      "",
      "Host: t\r\nHost: t\r\n",
      "Host: t\r\nX: a\r\n b\r\n",
      std::string("Host: t\r\nX: a\0b\r\n", 17),
      "Host: t\nX: a\r\n",
  };
  for (const std::string& fields : heads) {
    RawClient client(server_->port());
    client.send("POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n" + fields +
                "\r\n" + get_text("/health"));
    EXPECT_EQ(read_response(client).status, 400) << fields;
    EXPECT_TRUE(client.at_end()) << fields << ": answered what followed";
  }
  RawClient old(server_->port());
  old.send(
      "POST /v1/completions HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
  EXPECT_EQ(read_response(old).status, 400);
  const RawResponse h2 = exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  EXPECT_TRUE(h2.status == 505 || h2.status == 400) << h2.status;
  EXPECT_EQ(engine_.submitted(), 0);
  expect_alive();
}

TEST_F(Http, HeaderLimits) {
  start();
  EXPECT_EQ(get("/" + std::string(64 * 1024, 'a')).status, 414);
  EXPECT_EQ(get("/health", "X: " + std::string(9000, 'a') + "\r\n").status, 431);
  std::string many;
  for (int i = 0; i < 1500; ++i) many += "a:\r\n";
  EXPECT_EQ(get("/health", many).status, 431);
  expect_alive();
}

TEST_F(Http, DeadlinesForHeaderAndBody) {
  options_.header_timeout = std::chrono::milliseconds(100);
  options_.body_timeout = std::chrono::milliseconds(100);
  start();
  RawClient silent(server_->port());
  EXPECT_TRUE(silent.at_end()) << "closed without a word";
  RawClient slow(server_->port());
  slow.send("GET /health HT");
  EXPECT_EQ(read_response(slow).status, 408);
  RawClient half(server_->port());
  half.send("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 50\r\n\r\n{");
  EXPECT_EQ(read_response(half).status, 408);
  expect_alive();
}

TEST_F(Http, PipelinedRequestsAreAnsweredInOrder) {
  start();
  RawClient client(server_->port());
  std::string all;
  for (int i = 0; i < 100; ++i) {
    if (i == 49) {
      all += "BAD\r\n\r\n";
    } else {
      all += post_text("/v1/completions", R"({"prompt":"x","max_tokens":1})",
                       "X-Request-Id: r" + std::to_string(i) + "\r\n");
    }
  }
  client.send(all);
  for (int i = 0; i < 49; ++i) {
    const RawResponse r = read_response(client);
    ASSERT_EQ(r.status, 200) << i;
    EXPECT_THAT(r.head, HasSubstr("X-Request-Id: r" + std::to_string(i) + "\r\n"));
  }
  EXPECT_EQ(read_response(client).status, 400);
  EXPECT_TRUE(client.at_end());
  EXPECT_EQ(engine_.submitted(), 49) << "nothing after the bad request ran";
}

TEST_F(Http, ConnectionReuse) {
  start();
  RawClient keep(server_->port());
  for (int i = 0; i < 3; ++i) {
    keep.send(get_text("/health"));
    EXPECT_EQ(read_response(keep).status, 200);
  }
  keep.send(get_text("/health", "Connection: close\r\n"));
  EXPECT_EQ(read_response(keep).status, 200);
  EXPECT_TRUE(keep.at_end());
  RawClient old(server_->port());
  old.send("GET /health HTTP/1.0\r\n\r\n");
  EXPECT_EQ(read_response(old).status, 200);
  EXPECT_TRUE(old.at_end());
  RawClient old_keep(server_->port());
  for (int i = 0; i < 2; ++i) {
    old_keep.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT_EQ(read_response(old_keep).status, 200);
  }
}

TEST_F(Http, Keys) {
  options_.api_keys = {"first-key", "second-key"};
  start();
  EXPECT_EQ(get("/health", "").status, 200);
  EXPECT_EQ(get("/ready", "").status, 200);
  EXPECT_EQ(get("/v1/models", "Authorization: Bearer second-key\r\n").status, 200);
  EXPECT_EQ(get("/v1/models", "Authorization: bearer first-key\r\n").status, 200);
  const std::string refused = get("/v1/models", "").body;
  for (const char* path : {"/v1/models", "/metrics", "/version", "/nothing", "/v1/completions"}) {
    const RawResponse r = get(path, "Authorization: Bearer First-Key\r\n");
    EXPECT_EQ(r.status, 401) << path;
    EXPECT_THAT(r.head, HasSubstr("WWW-Authenticate: Bearer"));
    EXPECT_EQ(r.body, refused) << "one body for every reason";
  }
  EXPECT_EQ(
      get("/v1/models", "Authorization: Bearer first-key\r\nAuthorization: Bearer x\r\n").status,
      400);
}

TEST_F(Http, ConnectionLimit) {
  options_.max_connections = 2;
  start();
  RawClient a(server_->port());
  RawClient b(server_->port());
  for (RawClient* c : {&a, &b}) {
    c->send(get_text("/health"));
    EXPECT_EQ(read_response(*c).status, 200);
  }
  RawClient c(server_->port());
  const RawResponse refused = read_response(c);
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.head, HasSubstr("Connection: close"));
  EXPECT_THAT(refused.head, HasSubstr("Retry-After"));
  a.send(get_text("/health"));
  EXPECT_EQ(read_response(a).status, 200) << "those inside are not disturbed";
}

TEST_F(Http, StartErrors) {
  start();
  ServerOptions taken;
  taken.port = server_->port();
  const auto second = Server::start(engine_, taken);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kIo);
  EXPECT_THAT(second.error().message, HasSubstr("is in use: choose another with --port"));
  ServerOptions open;
  open.port = 0;
  open.host = "0.0.0.0";
  EXPECT_EQ(Server::start(engine_, open).error().code, ErrorCode::kInvalidArgument);
  open.api_keys = {"k"};
  EXPECT_TRUE(Server::start(engine_, open).ok());
  open.host = "no-address";
  EXPECT_EQ(Server::start(engine_, open).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(Http, DrainLetsRequestsFinish) {
  FakeEngine manual({.manual = true});
  options_.port = 0;
  auto server = std::move(Server::start(manual, options_)).value();
  RawClient idle(server->port());
  idle.send(get_text("/health"));
  EXPECT_EQ(read_response(idle).status, 200);
  RawClient busy(server->port());
  busy.send(post_text("/v1/completions", R"({"prompt":"x"})"));
  ASSERT_TRUE(manual.wait_submitted(1));
  EXPECT_FALSE(server->wait_idle(std::chrono::steady_clock::now()));
  server->drain();
  EXPECT_TRUE(idle.at_end()) << "an idle connection closes";
  RawClient probe(server->port());
  probe.send(get_text("/health"));
  const RawResponse health = read_response(probe);
  EXPECT_EQ(health.status, 200) << "a new connection is answered";
  EXPECT_THAT(health.head, HasSubstr("Connection: close"));
  RawClient endless(server->port());
  endless.send(post_text("/v1/completions", R"({"prompt":"y"})"));
  ASSERT_TRUE(manual.wait_submitted(2));
  EXPECT_FALSE(server->wait_idle(std::chrono::steady_clock::now()));
  manual.send(1, {.text = "done"});
  manual.send(1, {.kind = EngineEvent::Kind::kFinished});
  const RawResponse r = read_response(busy);
  EXPECT_EQ(r.status, 200);
  EXPECT_THAT(r.head, HasSubstr("Connection: close"));
  EXPECT_TRUE(server->wait_idle(std::chrono::steady_clock::now() + std::chrono::seconds(10)))
      << "a request that came after does not count";
  server->stop();
  RawClient late(server->port());
  EXPECT_TRUE(!late.connected() || late.at_end());
}

}  // namespace
}  // namespace troupe
