// Parts to the inspection server, from the protocol alone: one decision for the gate a part, in time, whatever happens.
//
//     make && build/client part1.png part2.png
//
// Without images on the command line, their paths are read from stdin, one a trigger. AGVAS_SERVER is host:port,
// AGVAS_DEADLINE_MS the time that the gate can wait.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <future>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>

#include "agvas/v1/inspection.grpc.pb.h"

namespace pb = agvas::v1;
using Call = grpc::ClientReaderWriter<pb::InspectRequest, pb::InspectResponse>;

const char* const kCamera = "example";
// What the gate does when the server says nothing that is known; the recipe's on_no_answer should be the same.
const char* const kGateWithoutAnswer = "reject";

std::string Setting(const char* name, const char* usual) {
  const char* found = std::getenv(name);
  return found ? found : usual;
}

std::chrono::milliseconds Deadline() { return std::chrono::milliseconds(std::stol(Setting("AGVAS_DEADLINE_MS", "2000"))); }

// An answer, or why there is none.
struct Found {
  std::optional<pb::SegmentResponse> answer;
  std::string reason;
};

// A camera's stream. It is opened again for the next part where it broke off or an answer was late.
class Line {
 public:
  explicit Line(pb::Inspection::Stub* stub) : stub_(stub) {}
  ~Line() {
    if (context_) context_->TryCancel();
    End();
  }

  // The server's answer, or why there is none by the deadline.
  Found Decide(const pb::InspectRequest& frame) {
    if (call_ && heard_.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {  // it ended between two parts
      context_->TryCancel();
      End();
    }
    if (!call_) {
      context_ = std::make_unique<grpc::ClientContext>();
      context_->set_wait_for_ready(true);
    }
    // Opening, writing and reading may all block: they have a thread, and cancelling the call ends it.
    std::future<bool> asking = std::async(std::launch::async, [&] { return Ask(frame); });
    const bool late = asking.wait_for(Deadline()) == std::future_status::timeout;
    if (late) context_->TryCancel();
    if (asking.get() && !late) return {answer_, ""};
    const std::string text = End();
    return {std::nullopt, late ? "no answer by the deadline" : text};
  }

 private:
  bool Ask(const pb::InspectRequest& frame) {
    if (!call_) {
      call_ = stub_->Inspect(context_.get());
      pb::InspectRequest opening;
      opening.mutable_open()->set_camera_id(kCamera);
      opening.mutable_open()->mutable_defaults()->set_mask_format(pb::MASK_FORMAT_NONE);
      heard_ = std::async(std::launch::async, [this] { return Hear(); });
      if (!call_->Write(opening)) return false;
    }
    if (!call_->Write(frame)) return false;
    while (heard_.get()) {
      answer_ = event_.answer();
      heard_ = std::async(std::launch::async, [this] { return Hear(); });  // so that the next part knows of an end
      if (answer_.identity().trigger_id() == frame.frame().frame().identity().trigger_id()) return true;
    }
    return false;
  }

  // The next answer, in event_; false at the end of the stream.
  bool Hear() {
    while (call_->Read(&event_)) {
      if (event_.has_answer()) return true;  // heartbeats come between answers, too: none for 3 s, no server
    }
    return false;
  }

  // Of a stream that broke off or was cancelled: how it ended. The next part opens another one.
  std::string End() {
    if (!call_) return "";
    if (heard_.valid()) heard_.wait();
    const grpc::Status status = call_->Finish();
    call_.reset();
    return status.error_message().empty() ? "the stream ended" : status.error_message();
  }

  pb::Inspection::Stub* stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<Call> call_;
  pb::InspectResponse event_;
  pb::SegmentResponse answer_;
  std::future<bool> heard_;  // reads from the stream as long as it lasts
};

// An enum's value in words, which are none for one that only a newer server knows.
std::string Name(const std::string& name, const std::string& prefix) {
  return name.empty() ? "UNKNOWN" : name.substr(prefix.size());
}

// Whether all is known that decides about the part; else its gate must not be taken.
bool Known(const pb::SegmentResponse& answer) {
  const bool said = answer.verdict() != pb::VERDICT_UNSPECIFIED && answer.gate() != pb::GATE_UNSPECIFIED;
  return said && pb::FrameStatus_IsValid(answer.status()) && pb::Verdict_IsValid(answer.verdict()) &&
         pb::Gate_IsValid(answer.gate());
}

std::string GateOf(const pb::SegmentResponse& answer) {
  switch (answer.gate()) {
    case pb::GATE_PASS: return "pass";
    case pb::GATE_REJECT: return "reject";
    case pb::GATE_STOP: return "stop";
    default: return kGateWithoutAnswer;
  }
}

// Verdict, gate and defect area; a reason where there is no result.
std::string Told(const Found& found) {
  if (!found.answer) return std::string("NO_ANSWER, gate ") + kGateWithoutAnswer + ", 0 px: " + found.reason;
  if (!Known(*found.answer)) {
    const std::string verdict = std::to_string(found.answer->verdict()), gate = std::to_string(found.answer->gate());
    const std::string status = std::to_string(found.answer->status());
    return Told({std::nullopt, "found status " + status + ", verdict " + verdict + ", gate " + gate});
  }
  const std::string verdict = Name(pb::Verdict_Name(found.answer->verdict()), "VERDICT_");
  const std::string gate = GateOf(*found.answer);
  const std::string reason = verdict == "NO_ANSWER" ? ": " + found.answer->reason() : "";
  return verdict + ", gate " + gate + ", " + std::to_string(found.answer->defect_area_px()) + " px" + reason;
}

std::string Content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// One call for one image, without a stream.
Found Segment(pb::Inspection::Stub* stub, const std::string& path) {
  pb::SegmentRequest request;
  request.mutable_frame()->set_encoded(Content(path));
  request.set_mask_format(pb::MASK_FORMAT_NONE);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + Deadline());
  pb::SegmentResponse reply;
  const grpc::Status status = stub->Segment(&context, request, &reply);
  return status.ok() ? Found{reply, ""} : Found{std::nullopt, status.error_message()};
}

// A frame with its identity, which comes back with the answer.
pb::InspectRequest FrameFor(const std::string& path, int number) {
  pb::InspectRequest request;
  pb::Frame* frame = request.mutable_frame()->mutable_frame();
  frame->set_encoded(Content(path));
  pb::FrameIdentity* identity = frame->mutable_identity();
  identity->set_part_id("part-" + std::to_string(number));
  identity->set_trigger_id("trigger-" + std::to_string(number));
  identity->set_sequence(number);
  identity->set_encoder_count(4000 * number);
  identity->mutable_capture_time()->set_seconds(std::time(nullptr));
  return request;
}

int main(int count, char** arguments) {
  grpc::ChannelArguments options;
  options.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  options.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);  // gRPC's own would be two minutes
  options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);        // a machine that vanished without a word is noticed
  options.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  const std::string server = Setting("AGVAS_SERVER", "127.0.0.1:50051");
  auto stub = pb::Inspection::NewStub(grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), options));
  Line line(stub.get());
  std::string path;
  for (int number = 1; count > 1 ? number < count : static_cast<bool>(std::getline(std::cin, path)); ++number) {
    if (count > 1) path = arguments[number];
    if (number == 1) {
      std::cout << "segment " << path.substr(path.rfind('/') + 1) << ": " << Told(Segment(stub.get(), path)) << std::endl;
    }
    const pb::InspectRequest frame = FrameFor(path, number);
    const bool readable = std::ifstream(path, std::ios::binary).good();
    const Found found = readable ? line.Decide(frame) : Found{std::nullopt, "cannot read " + path};
    const pb::FrameIdentity& identity = frame.frame().frame().identity();
    const std::string status =
        found.answer ? Name(pb::FrameStatus_Name(found.answer->status()), "FRAME_STATUS_") : "LOST";
    std::cout << identity.part_id() << " " << identity.trigger_id() << ": " << status << " " << Told(found) << std::endl;
  }
}
