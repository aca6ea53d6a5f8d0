#include "launch/bench_client.h"

#include <curl/curl.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string_view>
#include <utility>

namespace troupe {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxErrorText = 200;

std::string url_of(const BenchServeCommand& bench, const std::string& path) {
  std::string url = bench.url;
  while (url.ends_with('/')) url.pop_back();
  if (url.ends_with("/v1")) url.resize(url.size() - 3);
  return url + path;
}

curl_slist* headers_of(const BenchServeCommand& bench) {
  curl_slist* headers = curl_slist_append(nullptr, "Content-Type: application/json");
  headers = curl_slist_append(headers, "Expect:");
  if (!bench.api_key.empty()) {
    headers = curl_slist_append(headers, ("Authorization: Bearer " + bench.api_key).c_str());
  }
  return headers;
}

/// The message of an OpenAI error object, else the beginning of the text.
std::string error_text(const std::string& body) {
  const json object = json::parse(body, nullptr, false);
  if (object.is_object() && object.contains("error")) {
    const json& error = object["error"];
    if (error.is_object() && error.contains("message") && error["message"].is_string()) {
      return error["message"].get<std::string>();
    }
  }
  return body.substr(0, kMaxErrorText);
}

int32_t count_at(const json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_number_integer() ? it->get<int32_t>() : -1;
}

/// One request under way: reads the stream of events into the record.
class Flight {
 public:
  Flight(const BenchServeCommand& bench, const std::string& model, const PlannedRequest& request,
         curl_slist* headers, Clock::time_point epoch, RequestRecord& record)
      : body_(request_body(bench, model, request)),
        epoch_(epoch),
        record_(record),
        easy_(curl_easy_init()) {
    const char* path = bench.endpoint == "chat" ? "/v1/chat/completions" : "/v1/completions";
    record_.input_tokens = request.input_tokens;
    record_.start = bench.rate > 0 ? request.arrival : seconds();
    curl_easy_setopt(easy_, CURLOPT_URL, url_of(bench, path).c_str());
    curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy_, CURLOPT_POSTFIELDS, body_.c_str());
    curl_easy_setopt(easy_, CURLOPT_POSTFIELDSIZE, static_cast<long>(body_.size()));
    curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy_, CURLOPT_TIMEOUT, static_cast<long>(bench.timeout));
    curl_easy_setopt(easy_, CURLOPT_WRITEDATA, this);
    curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, &Flight::on_data);
    curl_easy_setopt(easy_, CURLOPT_PRIVATE, this);
    curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, curl_error_);
  }
  ~Flight() { curl_easy_cleanup(easy_); }
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;

  [[nodiscard]] CURL* easy() const { return easy_; }

  void finish(CURLcode code) {
    long status = 0;
    curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
    record_.end = seconds();
    if (code != CURLE_OK) {
      record_.error = curl_error_[0] != '\0' ? curl_error_ : curl_easy_strerror(code);
    } else if (status != 200) {
      record_.error = std::to_string(status) + ": " + error_text(received_);
    } else if (record_.error.empty() && !done_) {
      record_.error = "the stream ended before [DONE]";
    }
    // Without usage every piece counts as a token.
    if (record_.output_tokens == 0) {
      record_.output_tokens = static_cast<int32_t>(record_.pieces.size());
    }
  }

 private:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(Clock::now() - epoch_).count();
  }

  static size_t on_data(const char* data, size_t size, size_t n, void* flight) {
    static_cast<Flight*>(flight)->receive(std::string_view(data, size * n));
    return size * n;
  }

  void receive(std::string_view data) {
    received_.append(data);
    long status = 0;
    curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) return;  // an error body: read at the end
    size_t begin = 0;
    for (;;) {
      const size_t end = received_.find('\n', begin);
      if (end == std::string::npos) break;
      line(std::string_view(received_).substr(begin, end - begin));
      begin = end + 1;
    }
    received_.erase(0, begin);
  }

  void line(std::string_view text) {
    if (!text.starts_with("data:")) return;
    text.remove_prefix(5);
    if (text.starts_with(" [DONE]") || text.starts_with("[DONE]")) {
      done_ = true;
      return;
    }
    const json event = json::parse(text.begin(), text.end(), nullptr, false);
    if (!event.is_object()) return;
    if (event.contains("error")) record_.error = error_text(std::string(text));
    if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
      const int32_t prompt = count_at(*usage, "prompt_tokens");
      const int32_t answer = count_at(*usage, "completion_tokens");
      if (prompt >= 0) record_.input_tokens = prompt;
      if (answer >= 0) record_.output_tokens = answer;
    }
    const auto choices = event.find("choices");
    if (choices != event.end() && choices->is_array() && !choices->empty() &&
        has_text(choices->front())) {
      record_.pieces.push_back(seconds());
    }
  }

  static bool has_text(const json& choice) {
    const auto filled = [](const json& object, const char* name) {
      const auto it = object.find(name);
      return it != object.end() && it->is_string() && !it->get_ref<const std::string&>().empty();
    };
    if (!choice.is_object()) return false;
    if (filled(choice, "text")) return true;
    const auto delta = choice.find("delta");
    return delta != choice.end() && delta->is_object() &&
           (filled(*delta, "content") || filled(*delta, "reasoning_content"));
  }

  std::string body_;
  Clock::time_point epoch_;
  RequestRecord& record_;
  CURL* easy_;
  std::string received_;  // not yet read
  bool done_ = false;
  char curl_error_[CURL_ERROR_SIZE] = {};
};

/// The multi handle and what is in it.
class Load {
 public:
  Load(const BenchServeCommand& bench, const std::string& model,
       const std::vector<PlannedRequest>& load)
      : bench_(bench),
        model_(model),
        load_(load),
        records_(load.size()),
        multi_(curl_multi_init()),
        headers_(headers_of(bench)) {
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, static_cast<long>(load.size()));
  }
  ~Load() {
    for (const auto& flight : flights_) curl_multi_remove_handle(multi_, flight->easy());
    flights_.clear();
    curl_multi_cleanup(multi_);
    curl_slist_free_all(headers_);
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  std::vector<RequestRecord> run() {
    while (next_ < load_.size() || !flights_.empty()) {
      const int32_t wait_ms = send_due();
      int running = 0;
      curl_multi_perform(multi_, &running);
      if (!collect()) curl_multi_poll(multi_, nullptr, 0, wait_ms, nullptr);
    }
    return std::move(records_);
  }

 private:
  static constexpr int32_t kLongestWait = 1000;  // milliseconds

  /// Sends what is to be sent now; milliseconds until the next.
  int32_t send_due() {
    while (next_ < load_.size()) {
      if (bench_.rate > 0) {
        const double now = std::chrono::duration<double>(Clock::now() - epoch_).count();
        const double wait = load_[next_].arrival - now;
        // A poll is good to a millisecond: the last one is spun away, for arrivals on time.
        if (wait > 0) return static_cast<int32_t>(std::min<double>(wait * 1e3, kLongestWait));
      } else if (flights_.size() >= static_cast<size_t>(bench_.concurrency)) {
        return kLongestWait;
      }
      flights_.push_back(std::make_unique<Flight>(bench_, model_, load_[next_], headers_, epoch_,
                                                  records_[next_]));
      curl_multi_add_handle(multi_, flights_.back()->easy());
      ++next_;
    }
    return kLongestWait;
  }

  /// Takes finished requests out; true if there were any.
  bool collect() {
    bool any = false;
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      CURL* easy = message->easy_handle;
      const CURLcode code = message->data.result;  // `message` dies with the removal
      curl_multi_remove_handle(multi_, easy);
      const auto found = std::find_if(flights_.begin(), flights_.end(),
                                      [easy](const auto& f) { return f->easy() == easy; });
      (*found)->finish(code);
      flights_.erase(found);
      any = true;
    }
    return any;
  }

  const BenchServeCommand& bench_;
  const std::string& model_;
  const std::vector<PlannedRequest>& load_;
  std::vector<RequestRecord> records_;
  size_t next_ = 0;
  CURLM* multi_;
  curl_slist* headers_;
  Clock::time_point epoch_ = Clock::now();
  std::vector<std::unique_ptr<Flight>> flights_;
};

size_t append_to(const char* data, size_t size, size_t n, void* text) {
  static_cast<std::string*>(text)->append(data, size * n);
  return size * n;
}

}  // namespace

Result<std::string> first_model(const BenchServeCommand& bench) {
  std::string body;
  char curl_error[CURL_ERROR_SIZE] = {};
  CURL* easy = curl_easy_init();
  curl_slist* headers = headers_of(bench);
  curl_easy_setopt(easy, CURLOPT_URL, url_of(bench, "/v1/models").c_str());
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TIMEOUT, 10L);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &body);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &append_to);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, curl_error);
  const CURLcode code = curl_easy_perform(easy);
  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_cleanup(easy);
  curl_slist_free_all(headers);
  if (code != CURLE_OK) {
    return fail(ErrorCode::kIo, "no answer from " + bench.url + ": " + curl_error +
                                    "; start a server with: troupe serve MODEL");
  }
  const json object = json::parse(body, nullptr, false);
  if (status == 200 && object.is_object() && object.contains("data") && object["data"].is_array() &&
      !object["data"].empty() && object["data"][0].is_object() &&
      object["data"][0].contains("id") && object["data"][0]["id"].is_string()) {
    return object["data"][0]["id"].get<std::string>();
  }
  return fail(ErrorCode::kIo, bench.url + " names no model (" + std::to_string(status) + ": " +
                                  error_text(body) + "); name one with --model");
}

std::vector<RequestRecord> run_load(const BenchServeCommand& bench, const std::string& model,
                                    const std::vector<PlannedRequest>& load) {
  return Load(bench, model, load).run();
}

}  // namespace troupe
