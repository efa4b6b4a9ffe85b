// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"strings"
)

// Config is a kernel's build configuration: "BPF_SYSCALL" → "y", "m" or a
// value. What is not set is not there.
type Config map[string]string

// ParseConfig reads a .config file. Lines that it does not understand say
// nothing.
func ParseConfig(text []byte) Config {
	c := make(Config)
	for line := range bytes.Lines(text) {
		name, value, found := strings.Cut(strings.TrimSpace(string(line)), "=")
		if name, ok := strings.CutPrefix(name, "CONFIG_"); ok && found && value != "n" {
			c[name] = strings.Trim(value, `"`)
		}
	}
	return c
}

// Has tells whether an option is built in or a module. The prefix "CONFIG_"
// may be left out.
func (c Config) Has(option string) bool {
	_, ok := c[strings.TrimPrefix(option, "CONFIG_")]
	return ok
}

// Missing returns which of the options are not set, by their full names.
func (c Config) Missing(options ...string) []string {
	var missing []string
	for _, o := range options {
		if !c.Has(o) {
			missing = append(missing, "CONFIG_"+strings.TrimPrefix(o, "CONFIG_"))
		}
	}
	return missing
}

// Requirement is an option of the kernel and what it is for.
type Requirement struct {
	Option string // without "CONFIG_"
	For    string
}

// BootRequirements are those without which a kernel is no guest.
var BootRequirements = []Requirement{
	{"BLK_DEV_INITRD", "starting from memory"},
	{"BINFMT_ELF", "running programs"},
	{"DEVTMPFS", "devices"},
	{"PROC_FS", "/proc"},
	{"SYSFS", "/sys"},
	{"TMPFS", "the root file system"},
	{"PCI", "the bus that QEMU's devices are on"},
	{"VIRTIO_PCI", "QEMU's devices"},
	{"VIRTIO_CONSOLE", "the port to the host"},
	{"SERIAL_8250_CONSOLE", "what the kernel says"},
	{"PRINTK", "what the kernel says"},
}

// BPFRequirements are those of most eBPF programs.
var BPFRequirements = []Requirement{
	{"BPF_SYSCALL", "eBPF"},
	{"BPF_JIT", "eBPF at full speed"},
	{"DEBUG_INFO_BTF", "CO-RE: programs that find the kernel's types by BTF"},
	{"CGROUP_BPF", "eBPF on cgroups"},
	{"NET_CLS_BPF", "eBPF on a network device before 6.6 (cls_bpf)"},
	{"NET_SCH_INGRESS", "the qdisc clsact"},
	{"VETH", "pairs of virtual devices"},
	{"VXLAN", "overlays"},
}

// Finding is what a kernel's config says about one option.
type Finding struct {
	Requirement
	Value string // "y", "m" (loaded when the kernel asks for it), a value, or empty: not set
	// Fatal tells that the option is missing and that nothing runs without it.
	Fatal bool
}

// Check compares a kernel's config with what guests need, what most eBPF
// programs need, and with options that the caller needs besides.
func (k *Kernel) Check(options ...string) []Finding {
	var findings []Finding
	add := func(r Requirement, needed bool) {
		value := k.Config[r.Option]
		findings = append(findings, Finding{r, value, needed && value == ""})
	}
	for _, r := range BootRequirements {
		add(r, true)
	}
	for _, r := range BPFRequirements {
		add(r, false)
	}
	for _, o := range options {
		add(Requirement{strings.TrimPrefix(o, "CONFIG_"), "asked for"}, true)
	}
	return findings
}
