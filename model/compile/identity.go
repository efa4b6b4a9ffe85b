// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// identity is a set of labels that policy can tell from others, and the ports
// by name that go with it: a rule's port name means another number for a pod
// whose containers number it otherwise, so such pods are told apart too.
type identity struct {
	number          model.Identity
	namespace       string
	namespaceLabels labels.Set
	podLabels       labels.Set
	ports           map[namedPort]uint16
	account         string        // the pods' service account
	cluster         uint8         // its number; 0: this one
	families        familySet     // of the pods' addresses
	sourced         sourcedLabels // see ciliumLabels
	set             string        // its key, the same for the same labels
}

type namedPort struct {
	name     string
	protocol model.Protocol
}

func (c *compiler) allocateIdentities() {
	byKey := map[string]*identity{}
	wanted := map[string]model.WantedIdentity{}
	keys := make([]string, len(c.parties))
	c.ignored = ignoredLabels(c.objs)
	ignored := c.ignored
	for i, who := range c.parties {
		id := c.identityOf(who.object, ignored)
		keys[i] = id.key()
		if byKey[keys[i]] == nil {
			byKey[keys[i]] = id
			if id.isOurs() {
				wanted[keys[i]] = model.WantedIdentity{Labels: id.labelSet()}
			}
		}
		if who.local && !wanted[keys[i]].Here {
			wanted[keys[i]] = model.WantedIdentity{Labels: wanted[keys[i]].Labels, Here: true}
		}
		who.identity = byKey[keys[i]]
		for _, addr := range who.addresses {
			who.identity.families.add(addr)
			c.families.add(addr)
		}
	}
	numbers, err := c.local.Identities.AllocateLabels(keys)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: %w", c.node, err))
		return
	}
	for key, id := range byKey {
		id.number, id.set = numbers[key], key
		if id.isOurs() {
			c.identities = append(c.identities, id)
			wanted[key] = model.WantedIdentity{Labels: wanted[key].Labels, Number: id.number, Here: wanted[key].Here}
		}
	}
	slices.SortFunc(c.identities, func(a, b *identity) int { return cmp.Compare(a.number, b.number) })
	c.expect(wanted, ignored)
	c.known = byKey
	c.local.Identities.Want(wanted)
}

// expect adds pods that have a node, and no address yet: their number can be
// there before they are.
func (c *compiler) expect(wanted map[string]model.WantedIdentity, ignored []string) {
	for _, pod := range c.objs.Pods {
		if !isExpected(pod) {
			continue
		}
		id := c.identityOfPod(pod, ignored)
		key := id.key()
		w, found := wanted[key]
		if !found {
			w.Labels = id.labelSet()
		}
		w.Here = w.Here || pod.Spec.NodeName == c.node
		wanted[key] = w
	}
}

// isExpected is whether a pod will have an address of its own and has none yet.
func isExpected(pod *corev1.Pod) bool {
	return !manifest.IsFinished(pod) && !pod.Spec.HostNetwork && pod.Spec.NodeName != "" && len(manifest.PodAddresses(pod)) == 0
}

// identityOf is what policies can tell of who has addresses, but for these. Labels
// of ignored keys are none.
func (c *compiler) identityOf(object metav1.Object, ignored []string) *identity {
	if w, is := object.(*manifest.Workload); is {
		return c.identityOfWorkload(w, ignored)
	}
	return c.identityOfPod(object.(*corev1.Pod), ignored)
}

func (c *compiler) identityOfPod(pod *corev1.Pod, ignored []string) *identity {
	ns := manifest.NamespaceOr(pod.Namespace)
	id := &identity{namespace: ns, namespaceLabels: c.namespaces[ns], podLabels: without(pod.Labels, ignored), ports: map[namedPort]uint16{}, account: cmp.Or(pod.Spec.ServiceAccountName, model.DefaultAccount)}
	for _, container := range manifest.RunningContainers(pod) {
		for _, port := range container.Ports {
			named := namedPort{port.Name, protocolNumber(port.Protocol)}
			if _, first := id.ports[named]; !first && port.Name != "" {
				id.ports[named] = uint16(port.ContainerPort)
			}
		}
	}
	return id
}

// isOurs is whether it is of this cluster, whose policies' selectors are asked for
// it, and all of whose nodes are to share its number.
func (id *identity) isOurs() bool { return id.cluster == 0 }

func (id *identity) key() string {
	set := id.labelSet()
	return set.Key()
}

func (id *identity) labelSet() model.LabelSet {
	set := model.LabelSet{
		Namespace: id.namespace, NamespaceLabels: id.namespaceLabels, PodLabels: id.podLabels,
		Account: id.account, Cluster: id.cluster,
	}
	for port, number := range id.ports {
		set.Ports = append(set.Ports, model.NamedPort{Name: port.name, Protocol: port.protocol, Port: number})
	}
	return set
}

func protocolNumber(protocol corev1.Protocol) model.Protocol {
	switch protocol {
	case corev1.ProtocolUDP:
		return model.ProtocolUDP
	case corev1.ProtocolSCTP:
		return model.ProtocolSCTP
	}
	return model.ProtocolTCP
}
