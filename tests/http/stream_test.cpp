// Generation over real sockets: shapes of answers, streams, cancellation, slow readers.
#include "http/server.h"
#include "tests/support/fake_engine.h"
#include "tests/support/raw_client.h"

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
using test::post_text;
using test::RawClient;
using test::RawResponse;
using test::read_response;
using ::testing::HasSubstr;
using ::testing::Not;
using Kind = EngineEvent::Kind;

const char* const kChat = R"("messages":[{"role":"user","content":"hi"}])";

/// The data of every event; fails on anything that is not one-line `data:` events.
std::vector<std::string> events_of(const std::string& body) {
  std::vector<std::string> out;
  size_t at = 0;
  while (at < body.size()) {
    const size_t end = body.find("\n\n", at);
    const std::string event = body.substr(at, end - at);
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    EXPECT_EQ(event.find('\n'), std::string::npos) << event;
    out.push_back(event.substr(6));
    if (end == std::string::npos) break;
    at = end + 2;
  }
  return out;
}

class Generate : public ::testing::Test {
 protected:
  void start(FakeEngine::Options engine = {}) {
    engine_ = std::make_unique<FakeEngine>(engine);
    options_.port = 0;
    auto started = Server::start(*engine_, options_);
    ASSERT_TRUE(started.ok()) << started.error().message;
    server_ = std::move(started).value();
  }
  RawResponse post(const std::string& path, const std::string& body) {
    RawClient client(server_->port());
    client.send(post_text(path, body));
    return read_response(client);
  }
  json post_json(const std::string& path, const std::string& body) {
    const RawResponse r = post(path, body);
    EXPECT_EQ(r.status, 200) << r.body;
    return json::parse(r.body);
  }

  std::unique_ptr<FakeEngine> engine_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;  // goes first
};

TEST_F(Generate, Completion) {
  start();
  const json r = post_json("/v1/completions", R"({"prompt":"xyz","max_tokens":4,"model":"fake"})");
  EXPECT_EQ(r["object"], "text_completion");
  EXPECT_EQ(r["model"], "fake");
  EXPECT_TRUE(r["id"].get<std::string>().starts_with("cmpl-"));
  EXPECT_EQ(r["choices"][0]["text"], "abcd");
  EXPECT_EQ(r["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(r["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(r["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(r["usage"]["completion_tokens"], 4);
  EXPECT_EQ(r["usage"]["total_tokens"], 7);
}

TEST_F(Generate, ManyChoicesEchoAndLogprobs) {
  start();
  const json r =
      post_json("/v1/completions", R"({"prompt":["p","qq"],"n":2,"max_tokens":2,"echo":true})");
  ASSERT_EQ(r["choices"].size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(r["choices"][i]["index"], i);
    EXPECT_EQ(r["choices"][i]["text"], i < 2 ? "pab" : "qqab");
  }
  EXPECT_EQ(r["usage"]["prompt_tokens"], 3) << "each prompt once";
  EXPECT_EQ(r["usage"]["completion_tokens"], 8);
  EXPECT_EQ(post_json("/v1/completions",
                      R"({"prompt":[104,105],"max_tokens":1,"echo":true})")["choices"][0]["text"],
            "hia");
  const json lp = post_json(
      "/v1/completions", R"({"prompt":"p","max_tokens":2,"logprobs":2})")["choices"][0]["logprobs"];
  EXPECT_EQ(lp["tokens"], json::parse(R"(["a","b"])"));
  EXPECT_EQ(lp["token_logprobs"], json::parse("[-0.5,-0.5]"));
  EXPECT_EQ(lp["text_offset"], json::parse("[0,1]"));
  EXPECT_EQ(lp["top_logprobs"][1].size(), 2U);
}

TEST_F(Generate, Chat) {
  start();
  const json r =
      post_json("/v1/chat/completions",
                std::string("{") + kChat + R"(,"stop":"d","logprobs":true,"top_logprobs":1})");
  EXPECT_EQ(r["object"], "chat.completion");
  const json& choice = r["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], "abc");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], "d");
  ASSERT_EQ(choice["logprobs"]["content"].size(), 3U);
  EXPECT_EQ(choice["logprobs"]["content"][0]["bytes"], json::parse("[97]"));
  EXPECT_EQ(choice["logprobs"]["content"][0]["top_logprobs"][0]["token"], "A");
}

TEST_F(Generate, ChatStream) {
  start();
  const RawResponse r = post("/v1/chat/completions", std::string("{") + kChat +
                                                         R"(,"max_tokens":3,"stream":true,
                                       "stream_options":{"include_usage":true}})");
  EXPECT_EQ(r.status, 200);
  EXPECT_THAT(r.head, HasSubstr("Content-Type: text/event-stream"));
  const auto events = events_of(r.body);
  ASSERT_EQ(events.size(), 6U) << r.body;  // three tokens, the end, usage, [DONE]
  const json first = json::parse(events[0]);
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(first["choices"][0]["delta"]["content"], "a") << "the role comes with the first token";
  EXPECT_TRUE(first["usage"].is_null());
  const json second = json::parse(events[1]);
  EXPECT_FALSE(second["choices"][0]["delta"].contains("role"));
  EXPECT_TRUE(second["choices"][0]["finish_reason"].is_null());
  const json end = json::parse(events[3]);
  EXPECT_EQ(end["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(end["choices"][0]["delta"], json::object());
  const json usage = json::parse(events[4]);
  EXPECT_EQ(usage["choices"], json::array());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 3);
  EXPECT_EQ(events[5], "[DONE]");
}

TEST_F(Generate, CompletionStream) {
  start();
  const auto events = events_of(
      post("/v1/completions", R"({"prompt":["p","q"],"max_tokens":3,"stream":true,"echo":true,
       "stream_options":{"include_usage":true,"continuous_usage_stats":true}})")
          .body);
  std::vector<std::string> text(2);
  std::vector<std::string> finish(2);
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const json e = json::parse(events[i]);
    EXPECT_EQ(e["object"], "text_completion");
    EXPECT_TRUE(e["usage"].is_object()) << "usage in every chunk";
    const size_t index = e["choices"][0]["index"];
    text.at(index) += e["choices"][0]["text"].get<std::string>();
    if (!e["choices"][0]["finish_reason"].is_null())
      finish.at(index) = e["choices"][0]["finish_reason"];
  }
  EXPECT_EQ(text, (std::vector<std::string>{"pabc", "qabc"}));
  EXPECT_EQ(finish, (std::vector<std::string>{"length", "length"}));
}

TEST_F(Generate, StreamToHttp10IsEndedByClosing) {
  start();
  RawClient client(server_->port());
  const std::string body = R"({"prompt":"p","max_tokens":2,"stream":true})";
  client.send(
      "POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\n"
      "Content-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body);
  const RawResponse r = read_response(client);
  EXPECT_THAT(r.head, Not(HasSubstr("chunked")));
  EXPECT_EQ(events_of(r.body).back(), "[DONE]");
}

TEST_F(Generate, ConnectionGoesOnAfterAStream) {
  start();
  RawClient client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.send(post_text("/v1/completions", R"({"prompt":"p","max_tokens":2,"stream":true})"));
    EXPECT_EQ(events_of(read_response(client).body).back(), "[DONE]");
  }
}

TEST_F(Generate, RequestIds) {
  start();
  RawClient client(server_->port());
  client.send(post_text("/v1/completions", R"({"prompt":"p"})", "X-Request-Id: mine-7\r\n"));
  const RawResponse mine = read_response(client);
  EXPECT_THAT(mine.head, HasSubstr("X-Request-Id: mine-7\r\n"));
  EXPECT_EQ(json::parse(mine.body)["id"], "cmpl-mine-7");
  client.send(post_text("/v1/completions", R"({"prompt":"p"})", "X-Request-Id: a\"b\r\n"));
  EXPECT_THAT(read_response(client).head, Not(HasSubstr("a\"b")));
}

TEST_F(Generate, ErrorsBeforeTheFirstTokenHaveTheirStatus) {
  start();
  const std::string body = R"({"prompt":"x","stream":true,"max_tokens":100000})";
  const RawResponse too_long = post("/v1/completions", body);
  EXPECT_EQ(too_long.status, 400);
  EXPECT_EQ(json::parse(too_long.body)["error"]["code"], "context_length_exceeded");
  engine_->refuse_with(fail(ErrorCode::kQueueFull, "the queue is full"));
  for (const char* stream : {"true", "false"}) {
    const RawResponse full =
        post("/v1/completions", std::string(R"({"prompt":"x","stream":)") + stream + "}");
    EXPECT_EQ(full.status, 429);
    EXPECT_THAT(full.head, HasSubstr("Retry-After: "));
  }
  engine_->refuse_with(fail(ErrorCode::kUnavailable, "draining"));
  const RawResponse down = post("/v1/completions", R"({"prompt":"x"})");
  EXPECT_EQ(down.status, 503);
  EXPECT_THAT(down.head, HasSubstr("Retry-After: "));
}

TEST_F(Generate, OneFailedChoiceFailsTheRequestAndCancelsTheOthers) {
  start({.manual = true});
  RawClient client(server_->port());
  client.send(post_text("/v1/completions", R"({"prompt":["a","b"],"stream":true})"));
  ASSERT_TRUE(engine_->wait_submitted(2));
  engine_->send(1, {.kind = Kind::kPrompt});
  engine_->send(2, {.kind = Kind::kFinished,
                    .reason = FinishReason::kError,
                    .error = fail(ErrorCode::kContextLengthExceeded, "too long", "prompt")});
  EXPECT_EQ(read_response(client).status, 400) << "the header waited for all choices";
  EXPECT_TRUE(engine_->wait_cancelled(1));
}

TEST_F(Generate, ErrorInsideAStream) {
  start({.manual = true});
  RawClient client(server_->port());
  client.send(post_text("/v1/completions", R"({"prompt":"a","stream":true})"));
  ASSERT_TRUE(engine_->wait_submitted(1));
  engine_->send(1, {.kind = Kind::kPrompt});
  engine_->send(1, {.text = "a"});
  engine_->send(1, {.kind = Kind::kFinished,
                    .reason = FinishReason::kError,
                    .error = fail(ErrorCode::kInternal, "logits were not finite")});
  const RawResponse r = read_response(client);
  EXPECT_EQ(r.status, r.status == 200 ? 200 : 500);  // 500 if all three came in one batch
  if (r.status == 200) {
    const json last = json::parse(events_of(r.body).back());
    EXPECT_EQ(last["error"]["code"], "internal_error");
    EXPECT_TRUE(client.at_end()) << "no [DONE], and the connection closes";
  }
}

TEST_F(Generate, TextIsAlwaysValidUtf8OnOneLine) {
  start({.manual = true});
  RawClient client(server_->port());
  client.send(post_text("/v1/completions", R"({"prompt":"a","stream":true,"logprobs":1})"));
  ASSERT_TRUE(engine_->wait_submitted(1));
  engine_->send(1, {.kind = Kind::kPrompt});
  const std::string text = "\r\n\xE2\x82\xAC\"\\\x01\xE2\x80\xA8";
  engine_->send(1, {.text = text, .logprobs = {{.text = "\xE2\x82", .logprob = -1.0F}}});
  engine_->send(1, {.kind = Kind::kFinished});
  const auto events = events_of(read_response(client).body);
  EXPECT_EQ(json::parse(events.at(0))["choices"][0]["text"], text);
}

TEST_F(Generate, DisconnectCancelsStreamsAndWaitingRequests) {
  start({.manual = true});
  int64_t n = 0;
  for (const char* stream : {"true", "false"}) {
    for (const bool first_token : {false, true}) {
      for (const int way : {0, 1, 2}) {  // close, reset, half-close
        RawClient client(server_->port());
        client.send(post_text("/v1/completions",
                              std::string(R"({"prompt":["a","b"],"stream":)") + stream + "}"));
        ASSERT_TRUE(engine_->wait_submitted(n + 2));
        if (first_token) {
          for (int64_t id = n + 1; id <= n + 2; ++id) {
            engine_->send(static_cast<RequestId>(id), {.kind = Kind::kPrompt});
            engine_->send(static_cast<RequestId>(id), {.text = "a"});
          }
        }
        if (way == 0) client.close();
        if (way == 1) client.reset();
        if (way == 2) client.finish_sending();
        n += 2;
        EXPECT_TRUE(engine_->wait_cancelled(n)) << stream << first_token << way;
      }
    }
  }
  EXPECT_TRUE(server_->wait_idle(std::chrono::steady_clock::now() + std::chrono::seconds(10)));
}

TEST_F(Generate, PipelinedRequestDuringAStreamIsNotADisconnect) {
  start({.manual = true});
  RawClient client(server_->port());
  client.send(post_text("/v1/completions", R"({"prompt":"a","stream":true})"));
  ASSERT_TRUE(engine_->wait_submitted(1));
  client.send(test::get_text("/health"));
  engine_->send(1, {.kind = Kind::kPrompt});
  engine_->send(1, {.text = "a"});
  engine_->send(1, {.kind = Kind::kFinished});
  EXPECT_EQ(events_of(read_response(client).body).back(), "[DONE]");
  EXPECT_EQ(read_response(client).body, R"({"status":"ok"})");
  EXPECT_EQ(engine_->cancelled(), 0);
}

TEST_F(Generate, SlowReaderIsGivenUpAndHarmsNobody) {
  options_.max_buffered = 64 * 1024;
  start({.manual = true});
  RawClient slow(server_->port(), 4096);
  slow.send(post_text("/v1/completions", R"({"prompt":"a","stream":true})"));
  ASSERT_TRUE(engine_->wait_submitted(1));
  engine_->send(1, {.kind = Kind::kPrompt});
  // More than all kernel buffers together can hold (tcp_wmem goes up to 4 MiB by default).
  for (int i = 0; i < 20'000 && engine_->cancelled() == 0; ++i) {
    engine_->send(1, {.text = std::string(1000, 'a')});
  }
  EXPECT_TRUE(engine_->wait_cancelled(1));
  RawClient other(server_->port());
  other.send(post_text("/v1/completions", R"({"prompt":"a"})"));
  ASSERT_TRUE(engine_->wait_submitted(2));
  engine_->send(2, {.kind = Kind::kFinished, .text = "fine"});
  EXPECT_EQ(json::parse(read_response(other).body)["choices"][0]["text"], "fine");
}

TEST_F(Generate, StopEndsOpenStreams) {
  start({.manual = true});
  RawClient client(server_->port());
  client.send(post_text("/v1/completions", R"({"prompt":"a","stream":true})"));
  ASSERT_TRUE(engine_->wait_submitted(1));
  server_->stop();
  EXPECT_TRUE(client.at_end());
  EXPECT_EQ(engine_->cancelled(), 1);
}

TEST_F(Generate, ManyConnectionsAtOnceOnSeveralThreads) {
  options_.threads = 3;
  start();
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 64; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->port()));
    clients.back()->send(
        post_text("/v1/completions", R"({"prompt":"p","max_tokens":20,"stream":)" +
                                         std::string(i % 2 == 0 ? "true" : "false") + "}"));
    if (i % 5 == 4) clients.back()->reset();
  }
  for (size_t i = 0; i < clients.size(); ++i) {
    if (i % 5 == 4) continue;
    const RawResponse r = read_response(*clients[i]);
    EXPECT_EQ(r.status, 200);
    if (i % 2 == 0) {
      EXPECT_EQ(events_of(r.body).size(), 22U);
    }
  }
}

}  // namespace
}  // namespace troupe
