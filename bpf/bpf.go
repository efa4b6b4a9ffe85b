// SPDX-License-Identifier: Apache-2.0

// Package bpf embeds the datapath's BPF objects and mirrors their types into
// Go. It loads nothing: that is package datapath's. Its one invariant is that
// what is embedded is what the C beside it builds to, byte for byte.
package bpf

// The target is little-endian only: the tables hold words in the byte order
// of the machine, and CI proves no other.
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -type settings -type changes -type endpoint -type endpoint_pair -type ipcache_entry -type ipcache_pair -type cidr_key -type service_key -type service -type service_pair -type slot_row_key -type slot -type slot_row -type backend_key -type backend -type backend_pair -type backend_state -type node -type node_pair -type tunnel_endpoint -type tunnel_endpoint_pair -type scope -type service_flags -type tunnel -type source_key -type affinity_key -type affinity -type peer_key -type peer -type rule_key -type rule -type flow_key -type flow -type counter -type event -type share_key -type expired -type meter -type reason -type source_file -type hook -type out -type verdict -type lookup -type mark -type note -type table -type event_kind -type event_version -type event_flags -type flow_flags -type flow_seen -type ipcache_flags -type direction -type rule_action -type family Container container.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 Host host.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 Socket socket.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -type saved_frame -type bare_key -type bare_value Bench bench.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -type xdp_note Xdp xdp.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-unused-function -I/usr/include/x86_64-linux-gnu
