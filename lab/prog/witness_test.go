// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
)

func TestHardwareAddressesAreThoseOfThePodOrAsTheyCame(t *testing.T) {
	pod := model.Device{Ifindex: 7, MAC: net.HardwareAddr{2, 1, 1, 1, 1, 1}, PodMAC: net.HardwareAddr{2, 2, 2, 2, 2, 2}}
	n := &node{pods: []*host{{name: "default/a", device: pod}}}
	came := slices.Concat(net.HardwareAddr{2, 3, 3, 3, 3, 3}, net.HardwareAddr{2, 4, 4, 4, 4, 4}, []byte{8, 0, 0x45})
	led := slices.Concat(pod.PodMAC, pod.MAC, came[12:])
	local, device := datapath.Decision{Out: model.OutLocal, Ifindex: 7}, datapath.Decision{Out: model.OutDevice, Ifindex: 9}
	for name, c := range map[string]struct {
		hook model.Hook
		left []byte
		d    datapath.Decision
		want string
	}{
		"into a pod":                       {model.FromContainer, led, local, ""},
		"into a pod, as it came":           {model.FromDevice, came, local, "the frame's hardware addresses are 020303030303020404040404, and have to be 020202020202020101010101"},
		"into a pod, turned round":         {model.ToDevice, slices.Concat(pod.MAC, pod.PodMAC, came[12:]), local, "the frame's hardware addresses are 020101010101020202020202, and have to be 020202020202020101010101"},
		"into no pod":                      {model.FromContainer, led, datapath.Decision{Out: model.OutLocal, Ifindex: 8}, "it leads into device 8, which is no pod's"},
		"to a pod that it is at":           {model.ToContainer, came, local, ""},
		"to a pod that it is at, another":  {model.ToContainer, led, local, "the frame's hardware addresses are 020202020202020101010101, and have to be 020303030303020404040404"},
		"out of a device":                  {model.FromContainer, came, device, ""},
		"out of a device, with an address": {model.FromDevice, led, device, "the frame's hardware addresses are 020202020202020101010101, and have to be 020303030303020404040404"},
		"shorter than addresses":           {model.FromDevice, came[:11], device, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := n.misaddressed(c.hook, came, c.left, &c.d)
			if c.want == "" {
				require.Empty(t, got)
				return
			}
			require.Equal(t, []string{c.want}, got)
		})
	}
}
