// SPDX-License-Identifier: Apache-2.0

package sysdump

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// redacted is in place of what may be a secret.
const redacted = "(left out)"

var (
	// secretName is what a key, a variable or a flag is called that holds a secret.
	secretName = regexp.MustCompile(`(?i)(token|passw|passphrase|secret|credential|bearer|api[-_.]?key|access[-_.]?key|private[-_.]?key|auth[-_.]?key|encryption[-_.]?key|dsn$|cookie)`)
	// Secrets as they are in text: a token of JSON (RFC 7519), a key in PEM (RFC 7468),
	// a header, the user of a URL, and what follows a name that says so.
	secretText = []*regexp.Regexp{
		regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*`),
		regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`),
		regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}`),
	}
	userOfURL  = regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^/\s:@"]+:[^/\s@"]+@`)
	assignment = regexp.MustCompile(`(?i)([\w.-]*(?:token|passw|passphrase|secret|credential|api[-_]?key|access[-_]?key|private[-_]?key)[\w.-]*["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,;}"']+)`)
	flagValue  = regexp.MustCompile(`(?i)^(--?[\w.-]*(?:token|passw|secret|credential|key)[\w.-]*=).+`)
	secretFlag = regexp.MustCompile(`(?i)^--?[\w.-]*(token|passw|secret|credential|key)[\w.-]*$`)
)

// redactText leaves secrets out of a text.
func redactText(text string) string {
	for _, secret := range secretText {
		text = secret.ReplaceAllString(text, redacted)
	}
	text = userOfURL.ReplaceAllString(text, "${1}"+redacted+"@")
	return assignment.ReplaceAllStringFunc(text, func(all string) string {
		parts := assignment.FindStringSubmatch(all)
		if quote := parts[2][:1]; quote == `"` || quote == "'" {
			return parts[1] + quote + redacted + quote // what is JSON stays JSON
		}
		return parts[1] + redacted
	})
}

// redactObject leaves secrets out of an object, and what nobody needs. own is whether it
// is one of Weir's: of others' containers no variable and no argument is kept.
func redactObject(object map[string]any, own bool) {
	if meta, ok := object["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
		if annotations, ok := meta["annotations"].(map[string]any); ok {
			// It repeats the object, with all that is left out of it here.
			delete(annotations, corev1.LastAppliedConfigAnnotation)
		}
	}
	if !own {
		withoutEnvironment(object)
	}
	redactMap(object)
}

// withoutEnvironment takes what is a container's own out of everything that has some.
func withoutEnvironment(value any) {
	switch value := value.(type) {
	case map[string]any:
		if _, isContainer := value["image"]; isContainer {
			for _, key := range []string{"env", "envFrom", "args", "command"} {
				delete(value, key)
			}
		}
		for key := range value {
			withoutEnvironment(value[key])
		}
	case []any:
		for i := range value {
			withoutEnvironment(value[i])
		}
	}
}

func redactMap(object map[string]any) {
	name, named := object["name"].(string)
	if text, ok := object["value"].(string); ok && named && text != "" && secretName.MatchString(name) {
		object["value"] = redacted // a variable
	}
	for key, value := range object {
		switch value := value.(type) {
		case string:
			object[key] = redactText(value)
			// Names of Secrets and of fields are no secrets.
			if secretName.MatchString(key) && !strings.HasSuffix(key, "Name") && !strings.HasSuffix(key, "name") && value != "" {
				object[key] = redacted
			}
		case map[string]any:
			redactMap(value)
		case []any:
			redactList(value)
		}
	}
}

func redactList(list []any) {
	flag := false
	for i := range list {
		switch value := list[i].(type) {
		case string:
			list[i] = flagValue.ReplaceAllString(redactText(value), "${1}"+redacted)
			if flag && !strings.HasPrefix(value, "-") {
				list[i] = redacted // of the flag before
			}
			flag = secretFlag.MatchString(value)
		case map[string]any:
			redactMap(value)
		case []any:
			redactList(value)
		}
	}
}
