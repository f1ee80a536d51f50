// The instruction sets that every CPU kernel is built for, and which of them this processor runs.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace sbc {

// Ascending: a processor that runs one runs all before it.
enum class Isa { portable, avx2, avx512, amx };

const char* isa_name(Isa isa);

// AVX-512 means F, BW, DQ and VL (Skylake-X, Zen 4 and later), AVX2 comes with FMA. AMX means tiles
// of int8 beside them (Sapphire Rapids and later), with the operating system's leave to use them.
std::vector<Isa> available_isas();

// "" is the best there is. Throws std::invalid_argument that names what this processor has.
Isa parse_isa(const std::string& name);

}  // namespace sbc

// Each cpu.cpp is compiled once for each instruction set, into the namespace of that name. AMX has
// twins of its own where tiles help; elsewhere it runs AVX-512's.
#define SBC_FOR_EACH_ISA(DECLARE) DECLARE(portable) DECLARE(avx2) DECLARE(avx512)

// Picks the twin of `function` that was built for `isa`.
#if defined(SBC_X86)
#define SBC_SELECT_ISA(isa, function)             \
  ((isa) >= ::sbc::Isa::avx512 ? avx512::function \
   : (isa) == ::sbc::Isa::avx2 ? avx2::function   \
                               : portable::function)
#define SBC_SELECT_ISA_OR_AMX(isa, function) \
  ((isa) == ::sbc::Isa::amx ? amx::function : SBC_SELECT_ISA(isa, function))
#else
// A choice of one, because a comma expression would not resolve a template's address.
#define SBC_SELECT_ISA(isa, function) \
  ((isa) == ::sbc::Isa::portable ? portable::function : portable::function)
#define SBC_SELECT_ISA_OR_AMX(isa, function) SBC_SELECT_ISA(isa, function)
#endif
