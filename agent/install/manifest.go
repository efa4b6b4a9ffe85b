// SPDX-License-Identifier: Apache-2.0

package install

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/agent/config"
)

// Manifest is all that one installation says.
type Manifest struct {
	Image string
	// APIServer is HOST:PORT where nodes reach the API server. The address of
	// the Service default/kubernetes is none: it is the agent that makes it
	// work.
	APIServer string
	Config    config.Config
}

// object is what is applied, with the resource that it is of.
type object struct {
	resource schema.GroupVersionResource
	*unstructured.Unstructured
}

// title gives "Kind namespace/name".
func (o *object) title() string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// Keys of the ConfigMap.
const (
	keyConfig = "config.yaml"
	keyHost   = "kubernetesServiceHost"
	keyPort   = "kubernetesServicePort"
	// keyImage is for Uninstall, whose DaemonSet may be gone already.
	keyImage = "image"
)

// objects are those of the manifest in the order in which they are applied.
func (m *Manifest) objects() ([]object, error) {
	choices, err := m.configMap()
	if err != nil {
		return nil, err
	}
	var list []object
	add := func(resource schema.GroupVersionResource, typed ...runtime.Object) {
		for _, t := range typed {
			var fields map[string]any
			if err == nil {
				fields, err = runtime.DefaultUnstructuredConverter.ToUnstructured(t)
			}
			delete(fields, "status")
			list = append(list, object{resource, &unstructured.Unstructured{Object: fields}})
		}
	}
	for _, crd := range crds() {
		add(resourceCRD, crd)
	}
	add(resourceServiceAccount, serviceAccount())
	add(resourceClusterRole, clusterRole())
	add(resourceClusterRoleBinding, clusterRoleBinding())
	add(resourceConfigMap, choices)
	add(resourceDaemonSet, m.daemonSet(choices))
	if err != nil {
		return nil, fmt.Errorf("convert object: %w", err)
	}
	return list, nil
}

// WriteYAML writes the objects as 'kubectl apply -f -' takes them.
func (m *Manifest) WriteYAML(w io.Writer) error {
	objects, err := m.objects()
	if err != nil {
		return err
	}
	for i := range objects {
		text, err := yaml.Marshal(objects[i].Object)
		if err != nil {
			return fmt.Errorf("write %s: %w", objects[i].title(), err)
		}
		if _, err := fmt.Fprintf(w, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manifest) configMap() (*corev1.ConfigMap, error) {
	host, port, err := net.SplitHostPort(m.APIServer)
	if err != nil {
		return nil, fmt.Errorf("read address of the API server %q: %w: give HOST:PORT", m.APIServer, err)
	}
	text, err := m.Config.YAML()
	if err != nil {
		return nil, err
	}
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: ConfigMapName, Labels: labels()},
		Data:       map[string]string{keyConfig: text, keyHost: host, keyPort: port, keyImage: m.Image},
	}, nil
}

// digest changes with what agents read at their start, so that they are
// started anew.
func digest(choices *corev1.ConfigMap) string {
	sum := sha256.New()
	for _, key := range []string{keyConfig, keyHost, keyPort} {
		fmt.Fprintf(sum, "%s=%q\n", key, choices.Data[key])
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}
