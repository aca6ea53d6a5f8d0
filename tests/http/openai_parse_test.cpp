#include "http/api/error.h"
#include "http/api/json_reader.h"
#include "http/api/json_writer.h"
#include "http/api/openai.h"
#include "tests/support/fake_engine.h"

#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

namespace troupe {
namespace {

class Parse : public ::testing::Test {
 protected:
  Result<GenerateCall> completion(const std::string& body) {
    return parse_completion(body, {engine_, limits_, "id"});
  }
  Result<GenerateCall> chat(const std::string& body) {
    return parse_chat(body, {engine_, limits_, "id"});
  }
  /// The request of a completion with these extra members.
  GenerateRequest with(const std::string& members) {
    auto call = completion(R"({"prompt":"x",)" + members + "}");
    EXPECT_TRUE(call.ok()) << members << ": " << (call.ok() ? "" : call.error().message);
    return call.ok() ? call->requests.at(0) : GenerateRequest();
  }

  test::FakeEngine engine_;
  ApiLimits limits_;
};

TEST_F(Parse, ReadsHowARequestIsToBeServed) {
  const GenerateRequest r =
      with(R"("priority":-2,"ttft_target_ms":500,"tpot_target_ms":40,"cache_salt":"a")");
  EXPECT_EQ(r.priority, -2);
  EXPECT_EQ(r.ttft_target.count(), 500);
  EXPECT_EQ(r.tpot_target.count(), 40);
  EXPECT_NE(r.cache_salt, 0U);
  EXPECT_NE(r.cache_salt, with(R"("cache_salt":"b")").cache_salt);
  EXPECT_EQ(with(R"("n":1)").cache_salt, 0U);
  EXPECT_EQ(with(R"("cache_salt":"")").cache_salt, 0U);
}

struct BadCase {
  const char* members;  // added to {"prompt":"x", ...}
  const char* param;
};

TEST_F(Parse, RefusesBadMembersAndNamesThem) {
  const std::vector<BadCase> cases = {
      {R"("max_tokens":-1)", "max_tokens"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_tokens":1.5)", "max_tokens"},
      {R"("max_tokens":5.0)", "max_tokens"},
      {R"("max_tokens":1e30)", "max_tokens"},
      {R"("max_tokens":4294967297)", "max_tokens"},
      {R"("max_tokens":18446744073709551617)", "max_tokens"},
      {R"("max_tokens":"5")", "max_tokens"},
      {R"("max_tokens":true)", "max_tokens"},
      {R"("max_tokens":[1])", "max_tokens"},
      {R"("priority":1.5)", "priority"},
      {R"("priority":"high")", "priority"},
      {R"("ttft_target_ms":0)", "ttft_target_ms"},
      {R"("tpot_target_ms":-5)", "tpot_target_ms"},
      {R"("cache_salt":7)", "cache_salt"},
      {R"("n":0)", "n"},
      {R"("n":-1)", "n"},
      {R"("n":1000000)", "n"},
      {R"("best_of":2)", "best_of"},
      {R"("logprobs":1000000000)", "logprobs"},
      {R"("logprobs":true)", "logprobs"},
      {R"("top_k":-7)", "top_k"},
      {R"("top_p":0)", "top_p"},
      {R"("top_p":2)", "top_p"},
      {R"("top_p":1e-300)", "top_p"},
      {R"("min_p":1.1)", "min_p"},
      {R"("temperature":-1)", "temperature"},
      {R"("temperature":1e308)", "temperature"},
      {R"("temperature":"1")", "temperature"},
      {R"("repetition_penalty":0)", "repetition_penalty"},
      {R"("presence_penalty":3)", "presence_penalty"},
      {R"("frequency_penalty":-3)", "frequency_penalty"},
      {R"("logit_bias":{"256":1})", "logit_bias"},
      {R"("logit_bias":{"-1":1})", "logit_bias"},
      {R"("logit_bias":{"abc":1})", "logit_bias"},
      {R"("logit_bias":{"01":1})", "logit_bias"},
      {R"("logit_bias":{"1":1e9})", "logit_bias"},
      {R"("logit_bias":{"1":"1"})", "logit_bias"},
      {R"("logit_bias":[1])", "logit_bias"},
      {R"("stop":"")", "stop"},
      {R"("stop":[1])", "stop"},
      {R"("stop":[["a"]])", "stop"},
      {R"("stop":5)", "stop"},
      {R"("stop":["a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a"])", "stop"},
      {R"("stop_token_ids":[256])", "stop_token_ids"},
      {R"("stop_token_ids":[-1])", "stop_token_ids"},
      {R"("seed":-1)", "seed"},
      {R"("seed":18446744073709551616)", "seed"},
      {R"("min_tokens":20)", "min_tokens"},
      {R"("stream":1)", "stream"},
      {R"("stream_options":{"include_usage":true})", "stream_options"},
      {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options"},
      {R"("echo":true,"logprobs":1)", "echo"},
      {R"("suffix":"x")", "suffix"},
      {R"("response_format":{"type":"json_object"})", "response_format"},
      {R"("guided_regex":"(a+)+")", "guided_regex"},
      {R"("chat_template":"{{7*7}}")", "chat_template"},
      {R"("model":5)", "model"},
      {R"("user":5)", "user"},
  };
  for (const BadCase& c : cases) {
    const auto call = completion(std::string(R"({"prompt":"x",)") + c.members + "}");
    ASSERT_FALSE(call.ok()) << c.members;
    EXPECT_EQ(call.error().code, ErrorCode::kInvalidArgument) << c.members;
    EXPECT_EQ(call.error().param, c.param) << c.members;
  }
}

TEST_F(Parse, RefusesWhatIsTooLong) {
  EXPECT_EQ(completion(R"({"prompt":"x","stop":")" + std::string(257, 'a') + "\"}").error().param,
            "stop");
  EXPECT_EQ(
      completion(R"({"prompt":"x","user":")" + std::string(1 << 20, 'a') + "\"}").error().param,
      "user");
  std::string bias = R"({"prompt":"x","logit_bias":{)";
  for (int i = 0; i < 301; ++i) bias += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":1";
  EXPECT_EQ(completion(bias + "}}").error().param, "logit_bias");
}

TEST_F(Parse, RefusesBadPrompts) {
  for (const char* prompt :
       {R"("")", "[]", "{}", "5", "true", "null", R"([""])", R"(["a",1])", R"([1,"a"])", "[[]]",
        "[256]", "[-1]", "[1.0]", "[[1],[300]]", "[null]", "[[[1]]]"}) {
    const auto call = completion(std::string(R"({"prompt":)") + prompt + "}");
    ASSERT_FALSE(call.ok()) << prompt;
    EXPECT_EQ(call.error().param, "prompt") << prompt;
  }
  EXPECT_EQ(completion("{}").error().param, "prompt");
}

TEST_F(Parse, TakesEveryFormOfPrompt) {
  EXPECT_EQ(std::get<std::string>(completion(R"({"prompt":"ab"})")->requests.at(0).prompt), "ab");
  EXPECT_EQ(completion(R"({"prompt":["a","b"]})")->requests.size(), 2U);
  const std::vector<int32_t> ids = {1, 2, 3};
  EXPECT_EQ(std::get<1>(completion(R"({"prompt":[1,2,3]})")->requests.at(0).prompt), ids);
  EXPECT_EQ(completion(R"({"prompt":[[1,2,3],[4]]})")->requests.size(), 2U);
  EXPECT_EQ(std::get<std::string>(completion(R"({"prompt":"a\u0000b"})")->requests.at(0).prompt),
            std::string("a\0b", 3));
}

TEST_F(Parse, DefaultsAreOpenAis) {
  const GenerateRequest r = with(R"("max_tokens":null,"temperature":null,"n":null,"stop":null,
    "logprobs":null,"seed":null,"stream":null,"stream_options":null,"unknown_member":{"a":[1]})");
  EXPECT_EQ(r.max_tokens, 16);
  EXPECT_EQ(r.sampling.temperature, 1.0F);
  EXPECT_EQ(r.sampling.n_logprobs, -1);
  EXPECT_TRUE(r.stop.empty());
  EXPECT_NE(r.sampling.seed, with(R"("seed":null)").sampling.seed) << "a random seed per request";
  const auto call = chat(R"({"messages":[{"role":"user","content":"hi"}]})");
  ASSERT_TRUE(call.ok());
  EXPECT_EQ(call->requests.at(0).max_tokens, -1) << "as much as the context leaves";
}

TEST_F(Parse, ReadsSampling) {
  const GenerateRequest r = with(R"("temperature":0.5,"top_p":0.25,"top_k":1000000000,"min_p":0.125,
    "repetition_penalty":1.5,"presence_penalty":-1,"frequency_penalty":2,"seed":7,"min_tokens":3,
    "logit_bias":{"5":-100,"255":2.5},"stop":["x","yy"],"stop_token_ids":[9],"ignore_eos":true,
    "skip_special_tokens":false,"logprobs":4,"max_tokens":9)");
  const SamplingParams& s = r.sampling;
  EXPECT_EQ(s.temperature, 0.5F);
  EXPECT_EQ(s.top_p, 0.25F);
  EXPECT_EQ(s.top_k, 256) << "clamped to the vocabulary";
  EXPECT_EQ(s.min_p, 0.125F);
  EXPECT_EQ(s.repetition_penalty, 1.5F);
  EXPECT_EQ(s.presence_penalty, -1.0F);
  EXPECT_EQ(s.frequency_penalty, 2.0F);
  EXPECT_EQ(s.seed, 7U);
  EXPECT_EQ(s.min_tokens, 3);
  EXPECT_EQ(s.n_logprobs, 4);
  ASSERT_EQ(s.logit_bias.size(), 2U);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"x", "yy"}));
  EXPECT_EQ(r.stop_tokens, std::vector<int32_t>{9});
  EXPECT_TRUE(r.ignore_eos);
  EXPECT_FALSE(r.skip_special_tokens);
  EXPECT_EQ(r.max_tokens, 9);
  EXPECT_EQ(with(R"("temperature":1e-30)").sampling.temperature, 0.0F);
  EXPECT_EQ(with(R"("top_k":-1)").sampling.top_k, 0);
}

TEST_F(Parse, FansOutPromptsAndChoices) {
  const auto call = completion(R"({"prompt":["a","b"],"n":3,"seed":10})");
  ASSERT_TRUE(call.ok());
  ASSERT_EQ(call->requests.size(), 6U);
  EXPECT_EQ(std::get<std::string>(call->requests[2].prompt), "a");
  EXPECT_EQ(std::get<std::string>(call->requests[3].prompt), "b");
  EXPECT_EQ(call->requests[5].sampling.seed, 12U);
  std::string many = R"({"n":8,"prompt":["a")";
  for (int i = 0; i < 16; ++i) many += R"(,"a")";
  EXPECT_EQ(completion(many + "]}").error().param, "n") << "17 x 8 exceeds the product";
}

TEST_F(Parse, UnknownModelIsNotFound) {
  for (const std::string& name : {std::string("../../x"), std::string(10'000, 'm')}) {
    const auto call = completion(R"({"prompt":"x","model":")" + name + "\"}");
    ASSERT_FALSE(call.ok());
    EXPECT_EQ(call.error().code, ErrorCode::kNotFound);
    EXPECT_LT(call.error().message.size(), 300U);
  }
  EXPECT_TRUE(completion(R"({"prompt":"x","model":"fake"})").ok());
  EXPECT_TRUE(completion(R"({"prompt":"x","model":""})").ok());
}

TEST_F(Parse, ReadsMessages) {
  const auto call = chat(R"({"messages":[{"role":"developer","content":"be brief"},
    {"role":"user","name":"bob","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],
    "max_tokens":5,"max_completion_tokens":6,"logprobs":true,"top_logprobs":2,"tools":[],
    "response_format":{"type":"text"}})");
  ASSERT_TRUE(call.ok()) << call.error().message;
  const GenerateRequest& r = call->requests.at(0);
  const auto& messages = std::get<std::vector<ChatMessage>>(r.prompt);
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[1].content, "ab");
  EXPECT_EQ(messages[1].name, "bob");
  EXPECT_EQ(r.max_tokens, 6);
  EXPECT_EQ(r.sampling.n_logprobs, 2);
  const auto go_on = chat(R"({"continue_final_message":true,"add_generation_prompt":false,
    "messages":[{"role":"user","content":"q"},{"role":"assistant","content":"an"}]})");
  ASSERT_TRUE(go_on.ok());
  EXPECT_TRUE(go_on->requests.at(0).continue_final_message);
}

TEST_F(Parse, RefusesBadMessages) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({})", "messages"},
      {R"({"messages":[]})", "messages"},
      {R"({"messages":{}})", "messages"},
      {R"({"messages":[1]})", "messages[0]"},
      {R"({"messages":[{"content":"x"}]})", "messages[0].role"},
      {R"({"messages":[{"role":"robot","content":"x"}]})", "messages[0].role"},
      {R"({"messages":[{"role":"user"}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":null}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":{}}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://169.254.169.254"}}]}]})",
       "messages[0].content"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})", "messages[0].content"},
      {R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})",
       "messages"},
      {R"({"messages":[{"role":"user","content":"a"}],"continue_final_message":true})",
       "continue_final_message"},
      {R"({"messages":[{"role":"user","content":"a"}],"top_logprobs":2})", "top_logprobs"},
      {R"({"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function"}]})", "tools"},
      {R"({"messages":[{"role":"user","content":"a"}],"tool_choice":"required"})", "tool_choice"},
  };
  for (const auto& [body, param] : cases) {
    const auto call = chat(body);
    ASSERT_FALSE(call.ok()) << body;
    EXPECT_EQ(call.error().param, param) << body;
  }
  std::string many = R"({"messages":[)";
  for (int i = 0; i < 1025; ++i) many += R"({"role":"user","content":"a"},)";
  many.back() = ']';
  EXPECT_EQ(chat(many + "}").error().param, "messages");
}

TEST_F(Parse, ChatNeedsATemplate) {
  test::FakeEngine plain({.chat_template = false});
  const auto call =
      parse_chat(R"({"messages":[{"role":"user","content":"a"}]})", {plain, limits_, "id"});
  ASSERT_FALSE(call.ok());
  EXPECT_EQ(call.error().code, ErrorCode::kInvalidArgument);
}

TEST(JsonReader, RefusesWhatIsNotPlainJson) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("{\"a\":1}x"), std::string("{\"a\":NaN}"),
        std::string("{\"a\":1e400}"), std::string("{'a':1}"), std::string("{\"a\":1,}"),
        std::string("\xEF\xBB\xBF{}"), std::string("{\"a\":\"\xff\"}"),
        std::string("{\"a\":\"\xC0\x80\"}"), std::string("{\"a\":\"\xED\xA0\x80\"}"),
        std::string(R"({"a":"\ud800"})"), std::string(R"({"a":1,"b":2,"a":3})"),
        std::string(R"({"x":{"a":1,"a":3}})"), std::string("{\"a\":\"\n\"}")}) {
    const auto parsed = parse_json(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(to_valid_utf8(parsed.error().message), parsed.error().message);
  }
}

TEST(JsonReader, BoundsDepth) {
  const auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_TRUE(parse_json(nested(32)).ok());
  EXPECT_FALSE(parse_json(nested(33)).ok());
  EXPECT_FALSE(parse_json(nested(100'000)).ok());
  EXPECT_FALSE(parse_json(std::string(1'000'000, '[')).ok());
  std::string objects;
  for (int i = 0; i < 33; ++i) objects += R"({"a":)";
  EXPECT_FALSE(parse_json(objects + "1" + std::string(33, '}')).ok());
}

TEST(JsonReader, BuildsTheSameTreeAsTheLibrary) {
  const std::string text =
      R"({"a":[1,-2,3.5,{"b":null,"c":[true,false,[]]},"x"],"d":{"e":{}},"f":18446744073709551615})";
  EXPECT_EQ(*parse_json(text), Json::parse(text));
}

TEST(JsonWriter, StringsReadBackAndAreValidUtf8) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  all += "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80";
  std::string out;
  append_json_string(out, all);
  EXPECT_EQ(Json::parse(out), Json(all));
  for (const char* bad : {"\xff", "\xC3", "\xE2\x82", "\xC0\x80", "\xED\xA0\x80",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\x80"}) {
    out.clear();
    append_json_string(out, std::string("a") + bad + "b");
    const Json read = Json::parse(out);  // throws if it were not UTF-8
    EXPECT_TRUE(read.get<std::string>().starts_with("a\xEF\xBF\xBD")) << bad;
    EXPECT_TRUE(read.get<std::string>().ends_with("b"));
  }
}

TEST(JsonWriter, LogprobsAreAlwaysNumbers) {
  const auto text = [](float v) {
    std::string out;
    append_json_logprob(out, v);
    return out;
  };
  EXPECT_EQ(text(-INFINITY), "-9999.0");
  EXPECT_EQ(text(NAN), "-9999.0");
  EXPECT_EQ(Json::parse(text(-0.1F)).get<float>(), -0.1F);
  EXPECT_EQ(Json::parse(text(0.0F)).get<float>(), 0.0F);
}

TEST(ErrorTable, IsComplete) {
  for (size_t i = 0; i < kHttpErrors.size(); ++i) {
    EXPECT_EQ(static_cast<size_t>(kHttpErrors[i].code), i);
    EXPECT_GE(kHttpErrors[i].status, 400);
  }
  EXPECT_EQ(kHttpErrors.size(), static_cast<size_t>(ErrorCode::kInternal) + 1);
  const HttpReply full = error_reply(fail(ErrorCode::kQueueFull, "later"));
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(full.headers.at(0).first, "Retry-After");
  const Json body = Json::parse(error_json(fail(ErrorCode::kInvalidArgument, "a\xff", "p")));
  EXPECT_EQ(body["error"]["param"], "p");
  EXPECT_EQ(body["error"]["type"], "invalid_request_error");
}

}  // namespace
}  // namespace troupe
