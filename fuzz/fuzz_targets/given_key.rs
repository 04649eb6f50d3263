#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| occd::fuzz::given_key(text));
