// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"

	"github.com/weirnet/weir/bpf"
)

// Features of kernels that the datapath uses where they are there, and does
// without elsewhere.
const (
	FeatureTCX         = "tcx"          // links instead of clsact filters
	FeatureCoarseClock = "coarse-clock" // bpf_ktime_get_coarse_ns
	FeatureCsumIPv6    = "csum-ipv6"    // BPF_F_IPV6 of bpf_l4_csum_replace
	FeatureSetRetval   = "set-retval"   // bpf_set_retval at the hooks of sockets
)

// Uses says whether a feature is in use: as the loaded programs have it in
// their constants, and as they are attached. Not what a probe would say.
func (d *Datapath) Uses(feature string) (bool, error) {
	switch feature {
	case FeatureTCX:
		return d.Attachment() == "tcx", nil
	case FeatureCoarseClock:
		return d.constant(bpf.ContainerVarCoarseClock)
	case FeatureCsumIPv6:
		return d.constant(bpf.ContainerVarCsumIpv6)
	}
	return false, fmt.Errorf("look for feature %s: the datapath knows none of that name", feature)
}

// constant reads a switch from the programs' own read-only data.
func (d *Datapath) constant(name string) (bool, error) {
	obj, err := readObjects(&d.opts)
	if err != nil {
		return false, err
	}
	v := obj.container.Variables[name]
	data := d.maps[v.SectionName]
	if data == nil {
		return false, fmt.Errorf("read constant %s: the programs have no section %s", name, v.SectionName)
	}
	zero, bytes := uint32(0), make([]byte, data.ValueSize())
	if err := data.Lookup(&zero, &bytes); err != nil {
		return false, fmt.Errorf("read constant %s: %w", name, err)
	}
	return binary.NativeEndian.Uint32(bytes[v.Offset:]) != 0, nil
}
