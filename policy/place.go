// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// onOneNode gives the cluster with all pods on one node, which is where tables
// compare pods, and the state of that node.
func onOneNode(objs *manifest.Objects) (*manifest.Objects, *model.State, error) {
	together := objs.Clone()
	clear(together.Nodes)
	const name = "node"
	together.Nodes[name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	local := model.Local{Devices: map[model.Key]model.Device{}}
	for key, pod := range objs.Pods {
		pod = pod.DeepCopy()
		pod.Spec.NodeName = name
		together.Pods[key] = pod
		local.Devices[manifest.KeyOf(pod)] = model.Device{Name: "veth"}
	}
	state, _, err := compile.All(together, name, local)
	return together, state, err
}

// Doubts are what the objects' own nodes say of them: an error where a datapath
// would refuse an object, and warnings of what is hardly meant. Two nodes are
// asked, one of which sees any node as another.
func Doubts(objs *manifest.Objects) ([]compile.Warning, error) {
	placed := objs.Clone()
	if len(placed.Nodes) == 0 {
		placed.Nodes["node"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	}
	nodes := slices.Sorted(maps.Keys(placed.Nodes))
	// Pods as people write them have no address, and their labels count all
	// the same.
	standIn := netip.MustParseAddr("240.0.0.1")
	for _, key := range slices.Sorted(maps.Keys(objs.Pods)) {
		pod := objs.Pods[key].DeepCopy()
		if placed.Nodes[pod.Spec.NodeName] == nil {
			pod.Spec.NodeName = nodes[0]
		}
		if pod.Status.PodIP == "" && len(pod.Status.PodIPs) == 0 {
			pod.Status.PodIP = standIn.String()
			standIn = standIn.Next()
		}
		placed.Pods[key] = pod
	}
	var all []compile.Warning
	for _, node := range nodes[:min(2, len(nodes))] {
		local := model.Local{Devices: map[model.Key]model.Device{}, Uplinks: []model.Uplink{{Name: "eth0", Ifindex: 1}}}
		for _, pod := range placed.Pods {
			local.Devices[manifest.KeyOf(pod)] = model.Device{Name: "veth"}
		}
		_, warnings, err := compile.All(placed, node, local)
		if err != nil {
			return nil, err
		}
		for _, w := range warnings {
			if !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
	}
	return all, nil
}
