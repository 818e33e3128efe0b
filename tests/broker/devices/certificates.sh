# Makes the certificates and revocation lists of devices.rs in the current folder, with openssl alone.
set -eu
# The database of the CA at hand; the configuration wants it for every command.
export DB=.

cat >ca.cnf <<'CNF'
[req]
distinguished_name = dn
[dn]
[ca]
default_ca = db
[db]
database = $ENV::DB/index.txt
new_certs_dir = $ENV::DB
rand_serial = yes
default_md = sha256
default_crl_days = 3650
policy = policy
unique_subject = no
[policy]
commonName = supplied
[v2list]
authorityKeyIdentifier = keyid
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[authority0]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
[constrained]
basicConstraints = critical,CA:TRUE
nameConstraints = critical,permitted;DNS:example.org
[device]
basicConstraints = critical,CA:TRUE
subjectKeyIdentifier = hash
[plain]
basicConstraints = CA:FALSE
subjectKeyIdentifier = hash
[client]
basicConstraints = CA:FALSE
authorityKeyIdentifier = keyid
extendedKeyUsage = clientAuth
[server]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
[encipher]
basicConstraints = CA:FALSE
keyUsage = keyEncipherment
[unknown]
1.2.3.4.5 = critical,DER:0500
[named]
subjectAltName = DNS:lamp.example.org
[misnamed]
subjectAltName = DNS:lamp.example.com
CNF

# key NAME CURVE
key() {
  case $2 in
    rsa*) openssl genrsa -out "$1.key" "${2#rsa}" ;;
    ed25519) openssl genpkey -algorithm ed25519 -out "$1.key" ;;
    *) openssl ecparam -name "$2" -genkey -noout -out "$1.key" ;;
  esac
}

# request NAME CURVE [COMMON-NAME]
request() {
  key "$1" "$2"
  openssl req -new -config ca.cnf -key "$1.key" -subj "/CN=${3:-$1}" -out "$1.csr"
}

# sign CA NAME DIGEST EXTENSIONS FROM UNTIL; EXTENSIONS may be none
sign() {
  [ -d "$1.db" ] || { mkdir "$1.db" && : >"$1.db/index.txt"; }
  extensions=""
  [ "$4" = none ] || extensions="-extensions $4"
  DB=$1.db openssl ca -batch -config ca.cnf -cert "$1.crt" -keyfile "$1.key" -in "$2.csr" -out "$2.crt" -notext \
    -md "$3" $extensions -startdate "$5" -enddate "$6"
}

long_ago=20150101000000Z
past=20200101000000Z
future=20400101000000Z
far=20450101000000Z

# authority NAME CURVE DIGEST EXTENSIONS [UNTIL [COMMON-NAME]]: signed by itself
authority() {
  request "$1" "$2" "${6:-$1}"
  mkdir "$1.db" && : >"$1.db/index.txt"
  extensions=""
  [ "$4" = none ] || extensions="-extensions $4"
  DB=$1.db openssl ca -batch -config ca.cnf -selfsign -keyfile "$1.key" -in "$1.csr" -out "$1.crt" -notext \
    -md "$3" $extensions -startdate $long_ago -enddate "${5:-$future}"
}

# leaf CA NAME CURVE [EXTENSIONS [DIGEST [FROM [UNTIL]]]]
leaf() {
  request "$2" "$3"
  sign "$1" "$2" "${5:-sha256}" "${4:-plain}" "${6:-$past}" "${7:-$future}"
}

# behind LEAF CA...: what its client sends
behind() {
  file=$1
  shift
  for authority; do cat "$authority.crt" >>"$file.crt"; done
}

revoke() { DB=$1.db openssl ca -config ca.cnf -cert "$1.crt" -keyfile "$1.key" -revoke "$2.crt"; }
# list CA FILE [OPTION]...
list() {
  name=$1 file=$2
  shift 2
  DB=$name.db openssl ca -config ca.cnf -cert "$name.crt" -keyfile "$name.key" -gencrl "$@" -out "$file"
}

authority root prime256v1 sha256 authority
leaf root server prime256v1 none

leaf root good prime256v1
leaf root client prime256v1 client
leaf root version1 prime256v1 none
# OpenSSL 3.2 and later make version 3 of everything.
openssl x509 -in version1.crt -noout -text | grep -q 'Version: 1 ' || : >no-version1
leaf root version1rsa rsa2048 none
leaf root version1expired prime256v1 none sha256 $long_ago $past
leaf root expired prime256v1 plain sha256 $long_ago $past
leaf root early prime256v1 plain sha256 $future $far
leaf root forservers prime256v1 server
leaf root encipher prime256v1 encipher
leaf root unknown prime256v1 unknown
leaf root isca prime256v1 device
leaf root maysign prime256v1 authority
leaf root p384 secp384r1
leaf root p521 secp521r1
leaf root rsa rsa2048
leaf root short rsa1024
leaf root ed25519 ed25519
leaf root sha384 prime256v1 plain sha384
leaf root sha512 prime256v1 plain sha512
leaf root sha1 prime256v1 plain sha1

# Of the same name as the root, with another key, and of another name.
authority twin prime256v1 sha256 authority $future root
leaf twin oftwin prime256v1
authority other prime256v1 sha256 authority
leaf other stranger prime256v1

# Between the root and its clients.
leaf root middle prime256v1 authority
leaf middle deep prime256v1
cp deep.crt deepalone.crt && cp deep.key deepalone.key
behind deep middle
leaf middle deepversion1 prime256v1 none
behind deepversion1 middle
leaf root oldmiddle prime256v1 authority sha256 $long_ago $past
leaf oldmiddle deepexpired prime256v1
behind deepexpired oldmiddle
leaf root notca prime256v1
leaf notca ofnotca prime256v1
behind ofnotca notca
leaf root version1ca prime256v1 none
leaf version1ca ofversion1ca prime256v1
behind ofversion1ca version1ca
leaf root last prime256v1 authority0
leaf last oflast prime256v1
behind oflast last
leaf last toodeep prime256v1 authority
leaf toodeep oftoodeep prime256v1
behind oftoodeep toodeep last
leaf root constrained prime256v1 constrained
leaf constrained named prime256v1 named
behind named constrained
leaf constrained misnamed prime256v1 misnamed
behind misnamed constrained

# Devices that have signed themselves.
authority self prime256v1 sha256 device
authority selfversion1 prime256v1 sha256 none
authority selfplain prime256v1 sha256 plain
authority selfexpired prime256v1 sha256 device $past
authority selfabsent prime256v1 sha256 device
cat root.crt self.crt selfversion1.crt selfplain.crt selfexpired.crt >devices.crt

# Kinds of CAs.
authority rootexpired prime256v1 sha256 authority $past
leaf rootexpired ofexpired prime256v1
leaf rootexpired middleofexpired prime256v1 authority
leaf middleofexpired deepofexpired prime256v1
cat rootexpired.crt middleofexpired.crt >bundle.crt
authority rootp384 secp384r1 sha384 authority
leaf rootp384 ofp384 prime256v1 plain sha512
authority rootp521 secp521r1 sha512 authority
leaf rootp521 ofp521 secp521r1 plain sha512
leaf rootp521 ofp521sha256 prime256v1 plain sha256
leaf rootp521 ofp521sha384 prime256v1 plain sha384
authority rootrsa rsa2048 sha256 authority
leaf rootrsa ofrsa rsa2048
leaf rootrsa ofrsasha512 prime256v1 none sha512
authority rootversion1 prime256v1 sha256 none
leaf rootversion1 ofrootversion1 prime256v1
authority rootnotca prime256v1 sha256 plain
leaf rootnotca ofrootnotca prime256v1
cat rootp384.crt rootp521.crt rootrsa.crt rootversion1.crt rootnotca.crt >kinds.crt
# Curves that midge does not know.
authority rootk1 secp256k1 sha256 authority
leaf rootk1 ofk1 prime256v1
leaf root k1 secp256k1
request p521server secp521r1
sign root p521server sha256 none $past $future

# Revoked: clients of the root and of the one between, and later that one itself.
leaf root revoked prime256v1
leaf root revokedversion1 prime256v1 none
leaf middle deeprevoked prime256v1
behind deeprevoked middle
# `openssl ca -revoke` reads the first certificate of a file.
revoke root revoked
revoke root revokedversion1
revoke middle deeprevoked
list root root.crl
list middle middle.crl
list twin twin.crl
list self self.crl
openssl crl -in root.crl -noout -text | grep -q 'Version 1 ' || : >no-version1-lists
list root root2.crl -crlexts v2list
list middle middle2.crl -crlexts v2list
openssl crl -in root2.crl -noout -text | grep -q 'Version 2 '
list root expired.crl -crl_lastupdate $long_ago -crl_nextupdate $past
list root early.crl -crl_lastupdate $future -crl_nextupdate $far
cat root.crl middle.crl >both.crl
cat expired.crl root.crl >renewed.crl
revoke root middle
list root rootmiddle.crl -crlexts v2list
cat rootmiddle.crl middle2.crl >middlerevoked.crl

# Authorities in directories, with hashes for names as OpenSSL wants them.
mkdir roots.d devices.d
# part DIRECTORY FILE: its certificates, each in a file of its own; one with several has no hash.
part() {
  awk -v to="$1" '/BEGIN CERTIFICATE/ { n++ } n { print > (to "/part" n ".pem") }' "$2"
}
cp root.crt roots.d/
part roots.d kinds.crt
part devices.d devices.crt
openssl rehash roots.d devices.d
