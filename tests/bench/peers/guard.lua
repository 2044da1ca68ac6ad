-- Tokens and limits for nginx: OpenSSL, which nginx has loaded anyway, called through LuaJIT's FFI.
local ffi = require "ffi"
local cjson = require "cjson.safe"

ffi.cdef [[
typedef struct bio_st BIO;
typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;
const EVP_MD *EVP_sha256(void);
unsigned char *HMAC(const EVP_MD *md, const void *key, int key_len, const unsigned char *d, size_t n,
                    unsigned char *out, unsigned int *out_len);
BIO *BIO_new_mem_buf(const void *buf, int len);
EVP_PKEY *PEM_read_bio_PUBKEY(BIO *bp, EVP_PKEY **x, void *cb, void *u);
EVP_MD_CTX *EVP_MD_CTX_new(void);
int EVP_MD_CTX_reset(EVP_MD_CTX *ctx);
int EVP_DigestVerifyInit(EVP_MD_CTX *ctx, void **pctx, const EVP_MD *type, void *e, EVP_PKEY *pkey);
int EVP_DigestVerify(EVP_MD_CTX *ctx, const unsigned char *sig, size_t siglen, const unsigned char *d, size_t n);
int CRYPTO_memcmp(const void *a, const void *b, size_t len);
]]
local C = ffi.C
local sha256 = C.EVP_sha256()
local digest, length = ffi.new "unsigned char[32]", ffi.new "unsigned int[1]"

local guard = {}

function guard.hs256(secret)
    guard.algorithm = "HS256"
    guard.verify = function(signed, signature)
        C.HMAC(sha256, secret, #secret, signed, #signed, digest, length)
        return #signature == 32 and C.CRYPTO_memcmp(digest, signature, 32) == 0
    end
end

-- JWS has r and s behind each other, OpenSSL wants them in DER.
local function integer(octets)
    octets = octets:gsub("^%z+", "")
    if octets == "" or octets:byte(1) >= 128 then octets = "\0" .. octets end
    return "\2" .. string.char(#octets) .. octets
end

function guard.public_key(algorithm, path)
    local pem = assert(io.open(path)):read "*a"
    local key = C.PEM_read_bio_PUBKEY(C.BIO_new_mem_buf(pem, #pem), nil, nil, nil)
    assert(key ~= nil, "no public key")
    local context = C.EVP_MD_CTX_new()
    guard.algorithm = algorithm
    guard.verify = function(signed, signature)
        if algorithm == "ES256" then
            if #signature ~= 64 then return false end
            local body = integer(signature:sub(1, 32)) .. integer(signature:sub(33))
            signature = "\48" .. string.char(#body) .. body
        end
        C.EVP_MD_CTX_reset(context)
        return C.EVP_DigestVerifyInit(context, nil, sha256, nil, key) == 1
            and C.EVP_DigestVerify(context, signature, #signature, signed, #signed) == 1
    end
end

local b64 = require "ngx.base64"

local function decoded(part)
    local text = b64.decode_base64url(part)
    return text and cjson.decode(text)
end

function guard.authenticate()
    local token = ngx.var.http_authorization
    local head, payload, signature = (token or ""):match "^Bearer ([%w_-]+)%.([%w_-]+)%.([%w_-]+)$"
    if not head then return ngx.exit(401) end
    local header = decoded(head)
    if not header or header.alg ~= guard.algorithm then return ngx.exit(401) end
    signature = b64.decode_base64url(signature)
    if not signature or not guard.verify(head .. "." .. payload, signature) then return ngx.exit(401) end
    local claims = decoded(payload)
    if not claims or type(claims.exp) ~= "number" or claims.exp <= ngx.time() or claims.iss ~= guard.issuer
        or claims.aud ~= guard.audience or type(claims.sub) ~= "string" then
        return ngx.exit(401)
    end
    for _, role in ipairs(type(claims.roles) == "table" and claims.roles or {}) do
        if role == guard.role then
            ngx.var.consumer = claims.sub
            return
        end
    end
    return ngx.exit(403)
end

function guard.limit()
    local count = ngx.shared.limits:incr(ngx.var.consumer, 1, 0, guard.window)
    if not count then return ngx.exit(503) end
    if count > guard.quota then return ngx.exit(429) end
end

local SCRIPT = [[
local count = redis.call("INCR", KEYS[1])
if count == 1 then redis.call("EXPIRE", KEYS[1], ARGV[1]) end
return count
]]
local known

function guard.limit_in_redis()
    local redis = require("nginx.redis"):new()
    redis:set_timeout(50)
    if not redis:connect("127.0.0.1", guard.redis_port) then return ngx.exit(503) end
    known = known or redis:script("LOAD", SCRIPT)
    local count = redis:evalsha(known, 1, "limit:" .. ngx.var.consumer, guard.window)
    redis:set_keepalive(60000, 128)
    if not count then return ngx.exit(503) end
    if count > guard.quota then return ngx.exit(429) end
end

return guard
