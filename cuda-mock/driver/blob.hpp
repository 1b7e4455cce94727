// What the mock's NVRTC gives out for a cubin and the mock's driver takes: four lines of text and a zero byte.
#pragma once
#include <cstdlib>
#include <cstring>
#include <string>

namespace mock {

struct Blob {
  std::string file;                      // without its folder
  std::string arch;                      // "sm_90a"
  unsigned long long hash = 0;           // of the source's text

  // Code for one major version runs on no other.
  bool runs_on_sm_90() const { return arch == "sm_90" || arch == "sm_90a"; }
};

constexpr char blob_magic[] = "cuda-mock module 1\n";

// FNV-1a of 64 bits, as in build.rs.
inline unsigned long long hash_of(const char* text) {
  unsigned long long hash = 0xcbf29ce484222325ull;
  for (; *text; ++text) hash = (hash ^ static_cast<unsigned char>(*text)) * 0x100000001b3ull;
  return hash;
}

inline std::string written(const Blob& blob) {
  char hash[20];
  snprintf(hash, sizeof hash, "%016llx", blob.hash);
  return blob_magic + blob.file + "\n" + blob.arch + "\n" + hash + "\n";
}

inline bool parse(const char* image, Blob& blob) {
  if (!image || strncmp(image, blob_magic, sizeof blob_magic - 1)) return false;
  std::string* fields[] = {&blob.file, &blob.arch};
  const char* at = image + sizeof blob_magic - 1;
  for (std::string* field : fields) {
    const char* end = strchr(at, '\n');
    if (!end) return false;
    field->assign(at, end);
    at = end + 1;
  }
  blob.hash = strtoull(at, nullptr, 16);
  return true;
}

}  // namespace mock
