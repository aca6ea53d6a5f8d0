#include "http/event_queue.h"
#include "http/head_check.h"
#include "http/metrics.h"
#include "http/sse.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace troupe {
namespace {

using Kind = HeadState::Kind;

TEST(HeadCheck, WaitsForTheEmptyLine) {
  const std::string head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  for (size_t n = 0; n < head.size(); ++n) {
    EXPECT_EQ(check_head(head.substr(0, n)).kind, Kind::kIncomplete) << n;
  }
  const HeadState whole = check_head(head + "next");
  EXPECT_EQ(whole.kind, Kind::kComplete);
  EXPECT_EQ(whole.size, head.size());
}

TEST(HeadCheck, RefusesWhatParsersRepair) {
  for (const char* head :
       {"GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "\r\n\r\n"}) {
    EXPECT_EQ(check_head(head).kind, Kind::kBad) << head;
    EXPECT_EQ(check_head(head).status, 400) << head;
  }
}

TEST(HeadCheck, BoundsSizeAndFields) {
  EXPECT_EQ(check_head("GET /" + std::string(9000, 'a')).status, 414);
  EXPECT_EQ(check_head("GET / HTTP/1.1\r\nA: " + std::string(9000, 'a')).status, 431);
  std::string many = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 100; ++i) many += "A: b\r\n";
  EXPECT_EQ(check_head(many + "\r\n").kind, Kind::kComplete);
  EXPECT_EQ(check_head(many + "A: b\r\n\r\n").status, 431);
}

TEST(HeadCheck, PercentDecoded) {
  EXPECT_EQ(percent_decoded("org%2Fmodel%20a%c3%A9"), "org/model a\xc3\xa9");
  EXPECT_EQ(percent_decoded("100%"), "100%");
  EXPECT_EQ(percent_decoded("%2"), "%2");
  EXPECT_EQ(percent_decoded("%zz%-1%+1"), "%zz%-1%+1");
  EXPECT_EQ(percent_decoded("%2541"), "%41");
}

TEST(HeadCheck, Values) {
  EXPECT_EQ(content_length_value("17"), 17);
  for (const char* bad : {"", "+3", "-1", "3,3", "3 ", "0x3", "9223372036854775808"}) {
    EXPECT_EQ(content_length_value(bad), -1) << bad;
  }
  EXPECT_TRUE(is_json_type("Application/JSON ; charset=utf-8"));
  EXPECT_FALSE(is_json_type("text/plain"));
  EXPECT_FALSE(is_json_type("application/jsonp"));
  EXPECT_TRUE(is_request_id("abc-123"));
  EXPECT_FALSE(is_request_id("a b"));
  EXPECT_FALSE(is_request_id(std::string(129, 'a')));
  EXPECT_TRUE(constant_time_equal("secret", "secret"));
  for (const char* other : {"", "secre", "secrets", "secretsecret", "Secret"}) {
    EXPECT_FALSE(constant_time_equal(other, "secret")) << other;
  }
  EXPECT_FALSE(constant_time_equal("", ""));
}

TEST(Sse, FramesChunks) {
  for (const size_t size : {size_t{1}, size_t{15}, size_t{16}, size_t{255}, size_t{70'000}}) {
    std::string buffer;
    begin_chunk(buffer);
    const std::string payload(size, 'x');
    buffer += payload;
    EXPECT_EQ(chunk_payload(buffer), payload);
    const std::string framed(end_chunk(buffer, true));
    const size_t line = framed.find("\r\n");
    EXPECT_EQ(std::stoul(framed.substr(0, line), nullptr, 16), size);
    EXPECT_EQ(framed.substr(line + 2), payload + "\r\n0\r\n\r\n");
  }
  std::string empty;
  begin_chunk(empty);
  EXPECT_EQ(end_chunk(empty, false), "");
  EXPECT_EQ(end_chunk(empty, true), "0\r\n\r\n");
}

TEST(EventQueue, KeepsOrderAndWakesOncePerBatch) {
  int wakes = 0;
  EventQueue queue(1 << 20, [&](bool) { ++wakes; });
  for (int i = 0; i < 5; ++i) queue.push(i, {.text = std::to_string(i)});
  std::vector<EventQueue::Item> items;
  queue.take(items);
  ASSERT_EQ(items.size(), 5U);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(items[static_cast<size_t>(i)].choice, i);
  EXPECT_EQ(wakes, 1);
  queue.push(0, {});
  EXPECT_EQ(wakes, 2);
}

TEST(EventQueue, WakesWhenNothingFollowsAtOnce) {
  int wakes = 0;
  EventQueue queue(1 << 20, [&](bool) { ++wakes; });
  queue.push(0, {.more = true});
  queue.push(0, {.more = true});
  EXPECT_EQ(wakes, 0);
  queue.push(0, {});
  EXPECT_EQ(wakes, 1);
  std::vector<EventQueue::Item> items;
  queue.take(items);
  EXPECT_EQ(items.size(), 3U);
  // The session may look between two that belong together: the second still wakes it.
  queue.push(0, {.more = true});
  queue.take(items);
  queue.push(0, {.kind = EngineEvent::Kind::kFinished});
  EXPECT_EQ(wakes, 2);
}

TEST(EventQueue, IsBoundedAndKeepsTheEnd) {
  std::vector<bool> wakes;
  EventQueue queue(10'000, [&](bool overflowed) { wakes.push_back(overflowed); });
  for (int i = 0; i < 1000; ++i) queue.push(0, {.text = std::string(100, 'a')});
  queue.push(0, {.kind = EngineEvent::Kind::kFinished});
  std::vector<EventQueue::Item> items;
  queue.take(items);
  EXPECT_LT(items.size(), 100U);
  EXPECT_EQ(items.back().event.kind, EngineEvent::Kind::kFinished);
  EXPECT_EQ(wakes, (std::vector<bool>{false, true})) << "one wake for data, one for the overflow";
}

TEST(EventQueue, IsSilentAfterClose) {
  int wakes = 0;
  EventQueue queue(1 << 20, [&](bool) { ++wakes; });
  queue.close();
  queue.push(0, {});
  std::vector<EventQueue::Item> items;
  queue.take(items);
  EXPECT_TRUE(items.empty());
  EXPECT_EQ(wakes, 0);
}

TEST(EventQueue, ManyPushersOneTaker) {
  constexpr int kThreads = 4;
  constexpr int kEach = 2000;
  EventQueue queue(1 << 28, [](bool) {});
  std::vector<std::thread> pushers;
  for (int t = 0; t < kThreads; ++t) {
    pushers.emplace_back([&queue, t] {
      for (int i = 0; i < kEach; ++i) queue.push(t, {.tokens = {i}});
    });
  }
  std::vector<int32_t> next(kThreads, 0);
  int seen = 0;
  std::vector<EventQueue::Item> items;
  while (seen < kThreads * kEach) {
    queue.take(items);
    for (const auto& item : items) {
      EXPECT_EQ(item.event.tokens.at(0), next[static_cast<size_t>(item.choice)]++);
      ++seen;
    }
  }
  for (std::thread& t : pushers) t.join();
}

TEST(Metrics, HasOwnAndVllmNames) {
  EngineStats stats;
  stats.running = 3;
  stats.queued = 2;
  stats.paused = 1;
  stats.slots_total = 100;
  stats.slots_used = 25;
  stats.output_tokens = 77;
  stats.finished_length = 5;
  stats.ttft_s = {.bounds = {0.1, 1.0}, .counts = {2, 3, 4}, .sum = 12.5};
  HttpCounters http;
  http.count_answer(429);
  const std::string text = metrics_text(stats, {.id = "m"}, http);
  for (const char* line :
       {"troupe_requests_running{model_name=\"m\"} 3\n",
        "vllm:num_requests_running{model_name=\"m\"} 3\n",
        "vllm:num_requests_waiting{model_name=\"m\"} 3\n",
        "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.25\n",
        "vllm:generation_tokens_total{model_name=\"m\"} 77\n",
        "# TYPE vllm:generation_tokens_total counter\n",
        "vllm:request_success_total{model_name=\"m\",finished_reason=\"length\"} 5\n",
        "vllm:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"0.1\"} 2\n",
        "vllm:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"1\"} 5\n",
        "vllm:time_to_first_token_seconds_bucket{model_name=\"m\",le=\"+Inf\"} 9\n",
        "vllm:time_to_first_token_seconds_count{model_name=\"m\"} 9\n",
        "vllm:time_to_first_token_seconds_sum{model_name=\"m\"} 12.5\n",
        "vllm:num_preemptions_total", "vllm:prompt_tokens_total",
        "vllm:e2e_request_latency_seconds_count", "vllm:inter_token_latency_seconds_count",
        "troupe_http_responses_total{model_name=\"m\",class=\"4xx\"} 1\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
}

}  // namespace
}  // namespace troupe
