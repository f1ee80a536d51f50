// Runs every CPU kernel on every instruction set of this processor, and compares it with a few
// naive lines in double precision (check_<op>.cpp).
//
//   kernel_check [--isa NAME] [--quick]
//
// Prints one line per op and instruction set. The last line is "N passed, N failed", and the exit
// status is 1 if anything failed. It is made for sanitizers and for emulators of other processors:
// it needs no framework, no Python and no files, and --quick does some twenty times less work.

#include <cstdio>
#include <cstring>
#include <exception>

#include "check.h"

namespace sbc::check {

Case::~Case() {
  constexpr int kShown = 5;  // failures per op: the first ones are informative enough
  if (broken_.empty()) {
    ++tally_.passed;
  } else if (++tally_.failed <= kShown) {
    std::printf("  FAILED %s: %s\n", name_.c_str(), broken_.c_str());
  }
}

bool Case::expect(bool holds, const std::string& what) {
  if (!holds && broken_.empty()) broken_ = what;
  return holds;
}

bool Case::within(double error, double bound, const std::string& what) {
  if (error > 0 && error <= bound && error / bound > tally_.worst) tally_.worst = error / bound;
  if (error <= bound) return true;
  return expect(false, join(what, ": error ", error, ", accepted is ", bound));
}

std::vector<int64_t> ragged_sizes(bool quick) {
  if (quick) return {1, 3, 8, 13, 24, 49, 70, 130};
  return {1,  2,  3,  4,  5,  7,  8,  9,  11, 12, 13, 15, 16, 17,  23,  24,  25, 31,
          32, 33, 47, 48, 49, 63, 64, 65, 72, 73, 95, 96, 97, 127, 128, 130, 300};
}

template <class T>
std::vector<T> positive_definite(Random& random, int64_t d) {
  constexpr int kDirections = 8;
  std::vector<double> along(kDirections * d);
  for (double& x : along) x = random.real();
  std::vector<T> matrix(d * d);
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = i; j < d; ++j) {
      double sum = i == j ? 1.5 + 0.5 * random.real() : 0.0;
      for (int k = 0; k < kDirections; ++k)
        sum += along[k * d + i] * along[k * d + j] / kDirections;
      matrix[i * d + j] = matrix[j * d + i] = static_cast<T>(sum);
    }
  }
  return matrix;
}
template std::vector<float> positive_definite<float>(Random&, int64_t);
template std::vector<double> positive_definite<double>(Random&, int64_t);

namespace {

Tally total;

template <class Check>
void run(const char* isa, const char* op, Check check) {
  Tally tally;
  check(tally);
  std::printf("%-9s %-14s %5d passed %3d failed", isa, op, tally.passed, tally.failed);
  if (tally.worst > 0) std::printf("   worst error %.3f of the bound", tally.worst);
  std::printf("\n");
  std::fflush(stdout);  // an emulator may crash in the next op
  total.passed += tally.passed;
  total.failed += tally.failed;
}

void run_isa(Isa isa, bool quick) {
  const char* name = isa_name(isa);
  run(name, "spike_gram", [&](Tally& tally) { check_spike_gram(isa, quick, tally); });
  run(name, "obs_order", [&](Tally& tally) { check_obs_order(isa, quick, tally); });
  run(name, "obs_select", [&](Tally& tally) { check_obs_select(isa, quick, tally); });
  run(name, "obs_solve", [&](Tally& tally) { check_obs_solve(isa, quick, tally); });
  run(name, "obs_quantize", [&](Tally& tally) { check_obs_quantize(isa, quick, tally); });
  run(name, "upper_factor", [&](Tally& tally) { check_upper_factor(isa, quick, tally); });
  run(name, "inverse", [&](Tally& tally) { check_inverse(isa, quick, tally); });
  run(name, "solve_positive", [&](Tally& tally) { check_solve_positive(isa, quick, tally); });
  run(name, "product", [&](Tally& tally) { check_product(isa, quick, tally); });
  run(name, "far", [&](Tally& tally) { check_far(isa, quick, tally); });
}

int main_checked(int argc, char** argv) {
  std::vector<Isa> isas = available_isas();
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
      isas = {parse_isa(argv[++i])};
    } else {
      std::fprintf(stderr, "usage: kernel_check [--isa NAME] [--quick]\n");
      return 2;
    }
  }
  run("any", "scratch", check_scratch);
  run("any", "narrow_spikes", check_narrow_spikes);
  run("any", "mirror_upper", check_mirror_upper);
  run("any", "assemble_conv", check_assemble_conv);
  run("any", "cuda_panel", [&](Tally& tally) { check_cuda_panel(quick, tally); });
  for (const Isa isa : isas) run_isa(isa, quick);
  std::printf("%d passed, %d failed\n", total.passed, total.failed);
  return total.failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace sbc::check

int main(int argc, char** argv) {
  try {
    return sbc::check::main_checked(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kernel_check: %s\n", error.what());
    return 2;
  }
}
